"""A Kafka-backed schema registry that speaks Confluent's API.

Pure: `subjects` names and contexts; `avro_text` schemas as they are kept (canonical text, references, GUID);
`entries` keys and values of the `_schemas` topic, byte for byte; `store` what the topic adds up to, and every read;
`registration` and `writes` what a write may do (a request against the store gives a decision or a refusal);
`requests` bodies as they are sent; `refusals` Confluent's statuses, codes and texts; `pending` writes on their way;
`access` accounts, roles and what each may see.

With I/O: `log` the topic's reader and its fenced transactional writer; `election` which instance writes; `api` the
HTTP routes; `audit` the trail of every write; `secured` accounts and TLS as set; `process` is `instep registry`;
`doctor` finds and heals keys in other spellings.
"""
