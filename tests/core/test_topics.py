from instep.topics import data_topic, dead_letter_topic, flow_topic, journal_topic, key_subject, value_subject


def test_names_follow_debezium_where_debezium_has_one() -> None:
    assert data_topic("shop", "public", "products") == "shop.public.products"
    assert data_topic("my-shop.eu1", "public", "odd name$") == "my-shop.eu1.public.odd_name_"
    assert len(data_topic("s", "p", "t" * 300)) == 249
    assert key_subject("t") == "t-key"
    assert value_subject("t") == "t-value"


def test_our_own_topics_do_not_collide_with_a_table() -> None:
    assert {journal_topic("shop"), flow_topic("card"), dead_letter_topic("crm")} == {
        "shop.__journal",
        "flow.card",
        "dead.crm",
    }
