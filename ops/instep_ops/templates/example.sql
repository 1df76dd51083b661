/* instep
key = "id"
# target = "crm"   object = "product.product"      # where its documents go (a target of instep.toml)
# delete = "deactivate"                            # what a vanished row does: deactivate, delete, ignore
*/
-- One SELECT over the captured tables; each row is one document, identified by the key above.
-- This file's name is the flow's name: its documents are in the topic flow.example.
-- Put your own tables here, then run: instep flow check example
SELECT p.id, p.name, p.price
FROM products p
