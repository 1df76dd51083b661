"""Differential test: any schema, any flows, random DML; documents must equal the same SELECT on the store."""
