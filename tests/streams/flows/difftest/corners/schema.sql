-- What PostgreSQL accepts: identity, serial, generated and partitioned tables, checks, cycles, triggers, views, rows.
\set ON_ERROR_STOP on
CREATE SCHEMA "Sales Dept";
CREATE SCHEMA hr;
CREATE TYPE "Sales Dept"."State" AS ENUM ('new', 'paid', 'it''s lost');
CREATE TYPE hr.address AS (street text, zip int);
CREATE DOMAIN hr.state AS "Sales Dept"."State" NOT NULL;
CREATE DOMAIN hr.percent AS numeric(5,2) CHECK (VALUE BETWEEN 0 AND 100);
CREATE DOMAIN hr.words AS text[];
CREATE TYPE hr.span AS RANGE (subtype = int);

CREATE TABLE "Sales Dept"."Customer" (
    "Id" bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    "Full Name" varchar(40) NOT NULL DEFAULT 'nobody',
    "emailAddress" text CHECK ("emailAddress" LIKE '%@%'),
    tier char(6) NOT NULL DEFAULT 'basic' CHECK (tier IN ('basic', 'gold', 'silver')),
    discount hr.percent NOT NULL DEFAULT 0
);
CREATE TABLE "Sales Dept"."Order" (
    id serial PRIMARY KEY,
    "customerId" bigint NOT NULL REFERENCES "Sales Dept"."Customer" ON DELETE CASCADE,
    state "Sales Dept"."State" NOT NULL DEFAULT 'new',
    opened date NOT NULL, closed date, CHECK (closed IS NULL OR closed >= opened),
    history "Sales Dept"."State"[]
);
CREATE TABLE "Sales Dept"."Line" (
    order_id int REFERENCES "Sales Dept"."Order" ON UPDATE CASCADE ON DELETE CASCADE,
    no smallint, qty int NOT NULL CHECK (qty > 0 AND qty < 100), price numeric(10,2) NOT NULL,
    total numeric GENERATED ALWAYS AS (qty * price) STORED,
    twice numeric GENERATED ALWAYS AS (qty * 2) VIRTUAL,
    PRIMARY KEY (order_id, no)
);
CREATE TABLE hr.team (id int PRIMARY KEY, name text UNIQUE, lead_id int);
CREATE TABLE hr.person (id int PRIMARY KEY, name text NOT NULL, team_id int NOT NULL REFERENCES hr.team DEFERRABLE INITIALLY DEFERRED,
    boss_id int REFERENCES hr.person, mood hr.state DEFAULT 'new', skills hr.words, home hr.address, active hr.span, shift int4range,
    touched int NOT NULL DEFAULT 0);
ALTER TABLE hr.team ADD FOREIGN KEY (lead_id) REFERENCES hr.person DEFERRABLE INITIALLY DEFERRED;
CREATE TABLE hr.booking (id uuid PRIMARY KEY DEFAULT gen_random_uuid(), room int NOT NULL, during tsrange NOT NULL,
    EXCLUDE USING gist (during WITH &&), person_id int REFERENCES hr.person ON DELETE SET NULL);
CREATE TABLE measurements (device int NOT NULL, at date NOT NULL, value double precision, PRIMARY KEY (device, at)) PARTITION BY RANGE (at);
CREATE TABLE measurements_old PARTITION OF measurements FOR VALUES FROM (MINVALUE) TO ('2024-03-01');
CREATE TABLE measurements_new PARTITION OF measurements DEFAULT;
CREATE TABLE log (line text, at timestamptz DEFAULT now());
CREATE UNLOGGED TABLE scratch (id int PRIMARY KEY);
CREATE TABLE defaults (id serial PRIMARY KEY, made timestamptz NOT NULL DEFAULT '2024-01-01', n int DEFAULT 7);
CREATE TABLE "a.b" ("x.y" int PRIMARY KEY, "é" text, "say ""hi""" bit(3), a macaddr, b cidr, c tsvector, d point, e xml, f oid, g money, h "char", i name, j timetz, k int[]);
CREATE VIEW gold AS SELECT * FROM "Sales Dept"."Customer" WHERE tier = 'gold';
CREATE FUNCTION plus_one(int) RETURNS int LANGUAGE sql IMMUTABLE AS 'SELECT $1 + 1';
CREATE FUNCTION hr.touch() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    UPDATE hr.person SET touched = touched + 1 WHERE id = NEW.id AND touched < 3;
    RETURN NULL;
END $$;
CREATE TRIGGER a_touch AFTER UPDATE OF name ON hr.person FOR EACH ROW EXECUTE FUNCTION hr.touch();
CREATE FUNCTION hr.picky() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NEW.name = 'b' THEN RAISE EXCEPTION 'no b'; END IF;
    NEW.name := upper(NEW.name);
    RETURN NEW;
END $$;
CREATE TRIGGER picky BEFORE INSERT OR UPDATE ON hr.team FOR EACH ROW EXECUTE FUNCTION hr.picky();
INSERT INTO hr.team VALUES (1, 'one', NULL), (2, 'two', NULL);
INSERT INTO measurements VALUES (1, '2024-01-31', 1.5), (1, '2024-12-31', 2.5);
COPY hr.person (id, name, team_id, boss_id) FROM stdin;
1	Anna	1	\N
2	Bo	1	1
\.

CREATE TABLE parent (id int PRIMARY KEY, a text);
CREATE TABLE child (b int, PRIMARY KEY (id)) INHERITS (parent);
CREATE TABLE k (k int PRIMARY KEY, doc text, h int);
CREATE DOMAIN hr.score AS hr.percent;
CREATE TABLE rated (id int PRIMARY KEY, h int, score hr.score, mood hr.state, net inet, names text[], extra jsonb NOT NULL DEFAULT '{}');
