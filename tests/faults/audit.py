"""PostgreSQL itself notes who ended a trial, and who wrote to a trial that is another's.

Workers connect with their name as application name. Not here: what the notes must say (invariants.py).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import psycopg

_SQL: Final = """
CREATE TABLE audit_ends (trial_id int, state text, worker text, at timestamptz DEFAULT clock_timestamp());
CREATE TABLE audit_strangers (trial_id int, "table" text, worker text, holder text);

CREATE FUNCTION audit_end() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO audit_ends VALUES (NEW.trial_id, NEW.state, current_setting('application_name'));
    RETURN NULL;
END $$;

CREATE FUNCTION audit_write() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE holder text; rung int;
BEGIN
    SELECT worker, paused_at INTO holder, rung FROM mlc_claims WHERE trial_id = NEW.trial_id;
    IF FOUND AND holder IS NULL AND rung IS NOT NULL AND TG_TABLE_NAME = 'trial_values' THEN
        RETURN NULL;  -- whoever claims a trial ends the paused ones that cannot be promoted any more
    END IF;
    IF FOUND AND holder IS DISTINCT FROM current_setting('application_name') THEN
        INSERT INTO audit_strangers VALUES (NEW.trial_id, TG_TABLE_NAME, current_setting('application_name'), holder);
    END IF;
    RETURN NULL;
END $$;

CREATE FUNCTION audit_param() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO audit_strangers VALUES (OLD.trial_id, 'a parameter was changed',
        current_setting('application_name'), OLD.param_name);
    RETURN NULL;
END $$;

CREATE TRIGGER audit_end AFTER UPDATE OF state ON trials FOR EACH ROW
    WHEN (NEW.state IN ('COMPLETE', 'PRUNED', 'FAIL')) EXECUTE FUNCTION audit_end();
CREATE TRIGGER audit_write AFTER INSERT OR UPDATE ON trial_user_attributes FOR EACH ROW
    WHEN (NEW.key <> 'failure') EXECUTE FUNCTION audit_write();
CREATE TRIGGER audit_write AFTER INSERT OR UPDATE ON trial_system_attributes FOR EACH ROW
    EXECUTE FUNCTION audit_write();
CREATE TRIGGER audit_write AFTER INSERT OR UPDATE ON trial_intermediate_values FOR EACH ROW
    EXECUTE FUNCTION audit_write();
CREATE TRIGGER audit_write AFTER INSERT OR UPDATE ON trial_values FOR EACH ROW EXECUTE FUNCTION audit_write();
CREATE TRIGGER audit_write AFTER INSERT ON trial_params FOR EACH ROW EXECUTE FUNCTION audit_write();
CREATE TRIGGER audit_param AFTER UPDATE OR DELETE ON trial_params FOR EACH ROW EXECUTE FUNCTION audit_param();
"""


@dataclass(frozen=True, slots=True)
class End:
    """Somebody wrote a trial's final state."""

    trial_id: int
    state: str
    worker: str


@dataclass(frozen=True, slots=True)
class Stranger:
    """Somebody wrote to a trial that was not his, or changed a parameter that was drawn."""

    trial_id: int
    table: str
    worker: str
    holder: str | None  # whose trial it was; None: it waited to be claimed


def begin(url: str) -> None:
    """Have the database take notes from now on; its tables must be there."""
    with psycopg.connect(url) as connection:
        connection.execute(_SQL.encode())


def ends(url: str) -> list[End]:
    with psycopg.connect(url) as connection:
        return [End(*row) for row in connection.execute("SELECT trial_id, state, worker FROM audit_ends ORDER BY at")]


def strangers(url: str) -> list[Stranger]:
    with psycopg.connect(url) as connection:
        rows = connection.execute('SELECT trial_id, "table", worker, holder FROM audit_strangers')
        return [Stranger(*row) for row in rows]
