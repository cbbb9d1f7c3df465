"""From a trained network to a fast file: conversion, cost, export, lowering, quantization, latency."""
