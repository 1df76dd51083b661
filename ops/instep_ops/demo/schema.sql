-- A shop's inventory and orders. Loaded once into an empty database; what is captured stands in schema public.
CREATE TYPE order_status AS ENUM ('new', 'paid', 'shipped', 'cancelled', 'returned');

CREATE TABLE suppliers (
    id integer PRIMARY KEY,
    name text NOT NULL,
    country char(2) NOT NULL,
    email text,
    rating numeric(3, 2) CHECK (rating BETWEEN 0 AND 5),
    created_at timestamptz NOT NULL
);

CREATE TABLE warehouses (
    id smallint PRIMARY KEY,
    code text NOT NULL UNIQUE,
    name text NOT NULL,
    city text NOT NULL
);

CREATE TABLE products (
    id integer PRIMARY KEY,
    sku text NOT NULL UNIQUE,
    name text NOT NULL CHECK (name <> ''),
    price numeric(12, 2) NOT NULL CHECK (price > 0),
    supplier_id integer REFERENCES suppliers,
    attributes jsonb NOT NULL DEFAULT '{}',
    tags text[] NOT NULL DEFAULT '{}',
    manual text,
    discontinued boolean NOT NULL DEFAULT false,
    updated_at timestamptz NOT NULL
);
-- long texts are kept out of line, uncompressed: an update that leaves them alone does not send them (TOAST)
ALTER TABLE products ALTER COLUMN manual SET STORAGE EXTERNAL;
CREATE INDEX ON products (supplier_id);

CREATE TABLE stock_levels (
    product_id integer NOT NULL REFERENCES products,
    warehouse_id smallint NOT NULL REFERENCES warehouses,
    on_hand integer NOT NULL CHECK (on_hand >= 0),
    reserved integer NOT NULL DEFAULT 0 CHECK (reserved BETWEEN 0 AND on_hand),
    reorder_point integer NOT NULL,
    counted_at timestamptz,
    PRIMARY KEY (product_id, warehouse_id)
);

CREATE TABLE customers (
    id integer PRIMARY KEY,
    code text NOT NULL UNIQUE,
    name text NOT NULL,
    email text,
    phone text,
    address jsonb,
    created_at timestamptz NOT NULL
);

CREATE TABLE orders (
    id bigint PRIMARY KEY,
    customer_id integer NOT NULL REFERENCES customers,
    status order_status NOT NULL DEFAULT 'new',
    total numeric(12, 2) NOT NULL CHECK (total >= 0),
    note text,
    ordered_at timestamptz NOT NULL
);
CREATE INDEX ON orders (customer_id);

CREATE TABLE order_lines (
    order_id bigint NOT NULL REFERENCES orders,
    line smallint NOT NULL,
    product_id integer NOT NULL REFERENCES products,
    quantity integer NOT NULL CHECK (quantity > 0),
    unit_price numeric(12, 2) NOT NULL,
    PRIMARY KEY (order_id, line)
);
CREATE INDEX ON order_lines (product_id);

CREATE TABLE stock_movements (
    id bigint PRIMARY KEY,
    product_id integer NOT NULL REFERENCES products,
    warehouse_id smallint NOT NULL REFERENCES warehouses,
    quantity integer NOT NULL CHECK (quantity <> 0),
    reason text NOT NULL,
    order_id bigint,
    moved_at timestamptz NOT NULL
);
CREATE INDEX ON stock_movements (product_id);

-- How far the shop's life has got; not captured. Each step of the life commits together with its number.
CREATE SCHEMA demo;
CREATE TABLE demo.clock (step bigint NOT NULL, changes bigint NOT NULL, seed bigint NOT NULL, scale double precision NOT NULL);
