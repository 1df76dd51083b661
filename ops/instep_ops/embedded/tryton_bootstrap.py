"""Runs inside Tryton's own environment, once: gives a fresh Tryton database a company and a REST application key.

Not imported by Instep: `tryton.py` starts it as a program of that environment. Arguments: configuration, database,
file to write the key to.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any


def bootstrap(configuration: str, database: str, key_file: Path) -> None:
    """Create currency, company, chart of accounts, accounting category and the application key."""
    from proteus import Model, config  # type: ignore[import-not-found]  # lives in Tryton's own environment

    session = config.set_trytond(database=database, user="admin", config_file=configuration)
    company = _company(Model)
    user = Model.get("res.user").find([("login", "=", "admin")])[0]
    user.companies.append(Model.get("company.company")(company.id))
    user.company = Model.get("company.company")(company.id)
    user.save()
    session._context = Model.get("res.user").get_preferences(True, session.context)
    _accounts(Model, company)
    application = Model.get("res.user.application")(user=user, application="rest")
    application.save()
    application.reload()
    if application.state != "validated":
        raise SystemExit(f"the key of the REST application is {application.state}, not validated")
    key_file.write_text(application.key, encoding="ascii")


def _company(model: Any) -> Any:
    euro = model.get("currency.currency")(name="Euro", symbol="€", code="EUR")
    euro.save()
    party = model.get("party.party")(name="Instep Demo Shop")
    party.save()
    company = model.get("company.company")(party=party, currency=euro)
    company.save()
    return company


def _accounts(model: Any, company: Any) -> None:
    from trytond.modules.account.tests.tools import (  # type: ignore[import-not-found]  # as above
        create_chart,
        get_accounts,
    )

    create_chart(company)
    accounts = get_accounts(company)
    model.get("product.category")(
        name="Goods", accounting=True, account_expense=accounts["expense"], account_revenue=accounts["revenue"]
    ).save()


if __name__ == "__main__":
    bootstrap(sys.argv[1], sys.argv[2], Path(sys.argv[3]))
