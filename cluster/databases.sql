-- The databases of the servers, made once, by the role with which the servers connect: since PostgreSQL 15 only the owner
-- of a database may make tables in its schema `public`.
CREATE DATABASE prefect;
CREATE DATABASE mlflow;
CREATE DATABASE mlflow_auth;
