-- The databases of the servers, made once, when PostgreSQL's own folder is made.
CREATE DATABASE prefect;
CREATE DATABASE mlflow;
CREATE DATABASE mlflow_auth;
