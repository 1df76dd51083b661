create table suppliers(id int primary key, name text, country text, vip boolean not null);
create table products(id bigint primary key, sku text not null, name text, price numeric(12,2), supplier_id int, category text, parent_id bigint, attrs jsonb, active boolean not null, created_at timestamptz);
create table stock_levels(id int primary key, product_id bigint, wh text, on_hand int, reserved int, reorder_point int);
create table customers(id int primary key, name text, tier text);
create table orders(id int primary key, customer_id int, status text, placed_at timestamptz);
create table order_lines(order_id int, line_no int, product_id bigint, qty int, price numeric, primary key(order_id,line_no));
create table tags(id int primary key, name text not null);
create table product_tags(product_id bigint, tag_id int, primary key(product_id,tag_id));
