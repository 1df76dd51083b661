CREATE SCHEMA crm;
CREATE TYPE crm.stage AS ENUM ('lead', 'won', 'lost');
CREATE DOMAIN sku AS varchar(12) CHECK (VALUE <> '');
CREATE TABLE crm.tenants (id smallint PRIMARY KEY, name text NOT NULL UNIQUE, "50% off" boolean);
CREATE TABLE crm.accounts (tenant_id smallint NOT NULL REFERENCES crm.tenants, id int NOT NULL, name varchar(40),
    stage crm.stage, stages crm.stage[], credit numeric, opened date, PRIMARY KEY (tenant_id, id));
CREATE TABLE crm.contacts (id uuid PRIMARY KEY, tenant_id smallint, account_id int, email text, prefs json, seen interval,
    FOREIGN KEY (tenant_id, account_id) REFERENCES crm.accounts ON DELETE CASCADE ON UPDATE CASCADE);
CREATE TABLE items (sku sku PRIMARY KEY, price numeric, cost numeric(8,3), weight real, tags text[], photo bytea,
    net numeric GENERATED ALWAYS AS (price * 2) STORED, made timestamp, at_time time, active boolean NOT NULL);
CREATE TABLE sales (day date NOT NULL, item sku NOT NULL, tenant_id smallint NOT NULL, account_id int, qty bigint, price numeric,
    PRIMARY KEY (day, item, tenant_id));
CREATE TABLE "Odd ""Names""" ("Key" char(3) PRIMARY KEY, "select" text, "a%s" int, item sku);
