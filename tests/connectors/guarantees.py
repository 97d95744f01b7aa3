"""Connector, guarantee, and the faults that it was tested under: the table of docs/connectors.md.

``python -m tests.connectors.guarantees`` writes it anew. ``GUARANTEES`` says what is promised;
``EVIDENCE`` names the tests that show it under a fault, for which connectors.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from tests.generated import Part

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "connectors.md"
PART = Part(PAGE.name, "<!-- guarantees -->", "<!-- /guarantees -->")

FAULTS: dict[str, str] = {
    "crash": "a crash at each step: writing, prepare, commit, the recovery",
    "restart": "the whole job ends and is started again",
    "rescale": "it goes on with another parallelism, or under another job",
    "away": "the store or the input is away; an answer is lost",
    "refused": "the store refuses the output for good",
    "unfit": "a record does not parse, or does not fit its sink: the dead letters",
    "zombie": "an attempt that was replaced comes back; a commit is late",
    "gone": "input, or prepared output, is deleted, cut or damaged",
    "kill": "`kill -9` of workers and job manager, real processes",
    "server": "the server itself is killed",
}

RESUMES = "state exactly-once"
OF_OBJECTS = f"{RESUMES}, of objects"
ONCE = "exactly-once"
AT_LEAST_ONCE = "at-least-once"
AT_MOST_ONCE = "at-most-once"


class Guarantee(NamedTuple):
    """What a connector promises; ``connector`` is what evidence calls it."""

    connector: str
    role: str
    promise: str


GUARANTEES: tuple[Guarantee, ...] = (
    Guarantee("TextFiles", "source", RESUMES),
    Guarantee("JsonLinesFiles, read", "source", RESUMES),
    Guarantee("CsvFiles, read", "source", RESUMES),
    Guarantee("ParquetFiles, read", "source", RESUMES),
    Guarantee("TextFiles, follow", "source", f"{RESUMES} with `follow=True`, but for truncation"),
    Guarantee("TextFiles, objects", "source", OF_OBJECTS),
    Guarantee("JsonLinesFiles, read objects", "source", OF_OBJECTS),
    Guarantee("CsvFiles, read objects", "source", OF_OBJECTS),
    Guarantee("ParquetFiles, read objects", "source", OF_OBJECTS),
    Guarantee("TextFiles, follow objects", "source", f"{OF_OBJECTS} with `follow=True`"),
    Guarantee("Generator", "source", RESUMES),
    Guarantee("FromIterable", "source", RESUMES),
    Guarantee("FromGenerator, replay", "source", f"{RESUMES} with `replay=`"),
    Guarantee("FromGenerator", "source", AT_MOST_ONCE),
    Guarantee("FromQueue", "source", AT_MOST_ONCE),
    Guarantee("SocketText", "source", AT_MOST_ONCE),
    Guarantee("PostgresTable", "source", RESUMES),
    Guarantee("PostgresChanges", "source", RESUMES),
    Guarantee("KafkaSource", "source", RESUMES),
    Guarantee("JsonLinesFiles", "sink", ONCE),
    Guarantee("CsvFiles", "sink", ONCE),
    Guarantee("ParquetFiles", "sink", ONCE),
    Guarantee("JsonLinesFiles, objects", "sink", f"{ONCE}, of objects"),
    Guarantee("CsvFiles, objects", "sink", f"{ONCE}, of objects"),
    Guarantee("ParquetFiles, objects", "sink", f"{ONCE}, of objects"),
    Guarantee("Collect", "sink", ONCE),
    Guarantee("CommittedCallback", "sink", f"{ONCE}, with `applied=`"),
    Guarantee("Callback", "sink", AT_LEAST_ONCE),
    Guarantee("SQLite", "sink", ONCE),
    Guarantee("Postgres", "sink", ONCE),
    Guarantee("KafkaSink", "sink", ONCE),
    Guarantee("SQLite, at-least-once", "sink", AT_LEAST_ONCE),
    Guarantee("Postgres, at-least-once", "sink", AT_LEAST_ONCE),
    Guarantee("KafkaSink, at-least-once", "sink", AT_LEAST_ONCE),
)

SINK_SUITE: dict[str, str] = {
    "JsonLinesFiles": "json lines",
    "CsvFiles": "csv",
    "ParquetFiles": "parquet",
    "JsonLinesFiles, objects": "json lines in a bucket",
    "CsvFiles, objects": "csv in a bucket",
    "ParquetFiles, objects": "parquet in a bucket",
    "Collect": "collect",
    "CommittedCallback": "committed callback",
    "SQLite": "sqlite",
    "Postgres": "postgres",
}
"""By what name ``tests/contract/test_sink.py`` tries a sink."""

SOURCE_SUITE: dict[str, str] = {
    "TextFiles": "text",
    "JsonLinesFiles, read": "json lines",
    "CsvFiles, read": "csv",
    "ParquetFiles, read": "parquet",
    "TextFiles, objects": "text in a bucket",
    "JsonLinesFiles, read objects": "json lines in a bucket",
    "CsvFiles, read objects": "csv in a bucket",
    "ParquetFiles, read objects": "parquet in a bucket",
    "Generator": "generator",
    "FromIterable": "list",
    "FromGenerator, replay": "generator with replay",
    "PostgresTable": "postgres table",
}
"""By what name ``tests/contract/test_source.py`` tries a source."""

EPOCH_LOGS = ("SQLite", "Postgres")
EAGER = ("SQLite, at-least-once", "Postgres, at-least-once")
SOURCES_OF_OBJECTS = tuple(name for name in SOURCE_SUITE if name.endswith("objects"))
SINKS_OF_OBJECTS = tuple(name for name in SINK_SUITE if name.endswith("objects"))
FOLLOWED = ("TextFiles, follow objects",)
ALL_SINKS = tuple(SINK_SUITE)
ALL_SOURCES = tuple(SOURCE_SUITE)
ONE_PASS = ("FromGenerator", "FromQueue", "SocketText")
FITTED = ("JsonLinesFiles", "CsvFiles", "ParquetFiles", "SQLite", "Postgres", "KafkaSink")


class Evidence(NamedTuple):
    """Tests of one file that show what connectors promise, under a fault."""

    fault: str
    connectors: tuple[str, ...]
    path: str
    tests: tuple[str, ...]


_SINK = "tests/contract/test_sink.py"
_SOURCE = "tests/contract/test_source.py"
_EPOCHS = "tests/contract/test_epoch_log.py"
_EAGER = "tests/contract/test_eager_sink.py"
_KAFKA_SINK = "tests/connectors/test_kafka_sink.py"
_KAFKA_SUITE = "tests/connectors/test_kafka_sink_contract.py"
_KAFKA_JOB = "tests/connectors/test_kafka_job.py"
_KAFKA_LOSS = "tests/connectors/test_kafka_loss.py"
_CDC = "tests/connectors/test_postgres_cdc.py"
_PG_TYPED = "tests/connectors/test_postgres_typed.py"
_TABLE = "tests/connectors/test_postgres_table.py"
_JOBS = "tests/connectors/test_transactional_jobs.py"
_END_TO_END = "tests/connectors/test_pipeline_end_to_end.py"
_KILLS = "tests/acceptance/test_exactly_once.py"
_TEXT = "tests/unit/connectors/test_text_files.py"
_COLLECT = "tests/unit/connectors/test_collect.py"
_FOLLOW = "tests/unit/connectors/test_follow.py"
_ONE_PASS = "tests/contract/test_one_pass_source.py"
_PYTHON = "tests/unit/connectors/test_python_sources.py"
_PYTHON_JOBS = "tests/integration/test_python_sources.py"
_FITTING = "tests/unit/connectors/test_fitting.py"
_REFUSED = "tests/contract/test_refused_rows.py"
_KAFKA_LETTERS = "tests/connectors/test_kafka_letters.py"
_LETTERS = "tests/integration/test_dead_letters.py"
_TYPED = "tests/unit/connectors/test_typed.py"
_OBJECTS = "tests/connectors/test_object_files.py"
_OBJECT_SINK = "tests/connectors/test_object_sink_contract.py"
_FOLLOWED = "tests/unit/connectors/test_follow_objects.py"

EVIDENCE: tuple[Evidence, ...] = (
    Evidence("crash", ALL_SOURCES, _SOURCE, (
        "test_restored_at_any_position_it_goes_on_with_the_next_record",
    )),
    Evidence("crash", ("KafkaSource",), "tests/connectors/test_kafka_source_contract.py", (
        "test_restored_at_any_position_it_goes_on_with_the_next_record",
    )),
    Evidence("crash", ("PostgresChanges",), _CDC, (
        "test_replica_is_the_table_whatever_happens_to_it_and_wherever_it_stops",
        "test_restored_within_a_transaction_it_goes_on_with_the_next_change",
        "test_snapshot_that_was_broken_off_is_gone_on_with_and_each_row_comes_once",
    )),
    Evidence("crash", ("TextFiles, follow",), "tests/property/test_follow.py", (
        "test_each_line_comes_once_whatever_is_rotated_between_two_looks",
    )),
    Evidence("crash", ("FromGenerator, replay",), _PYTHON_JOBS, (
        "test_generator_with_replay_gives_each_value_once",
    )),
    Evidence("crash", ONE_PASS, _ONE_PASS, (
        "test_restored_it_goes_on_with_what_comes_and_nothing_comes_twice",
    )),
    Evidence("crash", ("FromGenerator", "FromQueue"), _PYTHON_JOBS, (
        "test_what_cannot_be_read_again_comes_at_most_once",
    )),
    Evidence("crash", ("FromQueue",), _PYTHON, (
        "test_end_of_a_queue_holds_for_the_attempts_that_come_after_it",
    )),
    Evidence("crash", ("Callback",), _PYTHON_JOBS, (
        "test_callback_is_called_with_every_record_at_least_once",
    )),
    Evidence("crash", ALL_SINKS, _SINK, (
        "test_crash_at_any_point_shows_no_uncommitted_record_and_in_the_end_each_once",
        "test_crash_of_a_recovery_is_recovered_from",
    )),
    Evidence("crash", ("KafkaSink",), _KAFKA_SUITE, (
        "test_crash_shows_no_uncommitted_record_and_in_the_end_each_once",
        "test_crash_of_a_recovery_is_recovered_from",
    )),
    Evidence("crash", EAGER, _EAGER, ("test_crash_at_any_point_loses_nothing",)),
    Evidence("crash", ("SQLite", "Postgres"), _JOBS, (
        "test_operator_that_fails_doubles_and_loses_nothing",
    )),
    Evidence("crash", ("PostgresChanges",), _JOBS, (
        "test_changes_of_a_table_are_counted_once_over_a_failure",
    )),
    Evidence("crash", SOURCES_OF_OBJECTS, "tests/connectors/test_object_source_contract.py", (
        "test_restored_at_any_position_it_goes_on_with_the_next_record",
    )),
    Evidence("crash", FOLLOWED, _FOLLOWED, (
        "test_restarted_within_an_object_it_goes_on_with_the_next_line",
    )),
    Evidence("crash", ("JsonLinesFiles, objects",), _OBJECT_SINK, (
        "test_crash_at_any_point_shows_no_uncommitted_record_and_in_the_end_each_once",
        "test_crash_of_a_recovery_is_recovered_from",
    )),
    Evidence("restart", ALL_SINKS, _SINK, ("test_whole_process_may_be_started_again",)),
    Evidence("restart", ("KafkaSink",), _KAFKA_SUITE, ("test_whole_process_may_be_started_again",)),
    Evidence("restart", ("KafkaSource", "KafkaSink"), _KAFKA_JOB, (
        "test_all_that_is_killed_at_once_is_resumed_from_positions_and_epochs",
    )),
    Evidence("restart", ("TextFiles, follow",), "tests/integration/test_files.py", (
        "test_growing_file_is_followed_over_a_restart_of_its_job",
    )),
    Evidence("restart", FOLLOWED, _FOLLOWED, ("test_what_was_read_is_known_over_a_restart",)),
    Evidence("rescale", ("TextFiles, follow",), _FOLLOW, (
        "test_restored_job_keeps_its_lanes_and_looks_where_it_is_told_now",
    )),
    Evidence("rescale", ONE_PASS, _ONE_PASS, (
        "test_it_is_one_split_that_a_restored_job_keeps_with_any_parallelism",
    )),
    Evidence("rescale", ALL_SOURCES, _SOURCE, (
        "test_splits_that_depend_on_the_parallelism_are_kept_by_a_restored_job",
    )),
    Evidence("rescale", ALL_SINKS, _SINK, (
        "test_what_is_pending_is_committed_once_with_another_parallelism",
        "test_another_job_from_an_older_savepoint_commits_all_that_it_writes",
        "test_what_a_savepoint_holds_uncommitted_is_committed_by_the_first_that_restores_it",
    )),
    Evidence("rescale", ("KafkaSink",), _KAFKA_SUITE, (
        "test_what_is_pending_is_committed_once_with_another_parallelism",
    )),
    Evidence("rescale", ("KafkaSink",), _KAFKA_SINK, (
        "test_two_jobs_from_one_savepoint_write_what_it_holds_once",
    )),
    Evidence("rescale", ("KafkaSource", "KafkaSink"), _KAFKA_JOB, (
        "test_job_goes_on_with_another_parallelism_where_it_was_stopped",
    )),
    Evidence("rescale", ("SQLite", "Postgres"), _JOBS, (
        "test_job_that_is_stopped_goes_on_with_another_parallelism",
    )),
    Evidence("rescale", FOLLOWED, _FOLLOWED, (
        "test_lanes_are_kept_and_look_where_they_are_told_now",
    )),
    Evidence("away", EPOCH_LOGS, _EPOCHS, (
        "test_commit_of_unknown_outcome_is_repeated_and_shows_each_record_once",
        "test_attempt_that_fails_over_an_unknown_outcome_is_made_good_by_the_next",
        "test_store_that_is_away_for_longer_than_is_waited_for_fails_the_attempt_and_loses_nothing",
    )),
    Evidence("away", ("KafkaSink",), _KAFKA_SUITE, (
        "test_commit_of_unknown_outcome_is_repeated_and_shows_each_record_once",
        "test_attempt_that_fails_over_an_unknown_outcome_is_made_good_by_the_next",
    )),
    Evidence("away", ("KafkaSink",), _KAFKA_SINK, (
        "test_transaction_that_expires_loses_nothing_and_writes_nothing_twice",
        "test_job_that_was_down_for_longer_than_a_transaction_lives_loses_nothing",
    )),
    Evidence("away", ("KafkaSink, at-least-once",), _KAFKA_SINK, (
        "test_at_least_once_fails_its_attempt_where_the_broker_is_away",
    )),
    Evidence("away", ("KafkaSource",), _KAFKA_LOSS, (
        "test_broker_that_is_away_for_too_long_fails_the_attempt",
    )),
    Evidence("away", EAGER, _EAGER, ("test_store_that_is_away_loses_nothing",)),
    Evidence("away", ("PostgresTable",), _TABLE, (
        "test_server_that_is_away_is_asked_again_and_nothing_is_lost",
    )),
    Evidence("away", ("PostgresChanges",), _CDC, (
        "test_connection_that_breaks_is_made_anew_and_nothing_is_lost",
    )),
    Evidence("away", ("SocketText",), "tests/unit/connectors/test_socket_text.py", (
        "test_lost_connection_is_made_again",
        "test_server_that_does_not_answer_for_too_long_is_an_error",
    )),
    Evidence("away", SOURCES_OF_OBJECTS[1:], _OBJECTS, (
        "test_request_that_fails_is_repeated_and_each_record_is_read_once",
    )),
    Evidence("away", ("TextFiles, objects",), _OBJECTS, (
        "test_listing_that_fails_is_repeated",
        "test_service_that_stays_away_fails_the_attempt_and_tells_no_secret",
    )),
    Evidence("away", ("JsonLinesFiles, objects",), _OBJECTS, (
        "test_output_is_there_once_whatever_request_fails",
        "test_service_that_stays_away_fails_the_attempt_and_the_next_one_makes_it_good",
    )),
    Evidence("refused", EPOCH_LOGS, _REFUSED, (
        "test_rows_are_taken_and_others_kept_with_the_reason",
        "test_last_row_of_a_key_stays_the_last_where_others_are_refused",
        "test_what_is_no_fault_of_a_row_refuses_the_epoch",
    )),
    Evidence("refused", ("SQLite",), _LETTERS, (
        "test_job_that_fails_keeps_each_row_that_its_table_refuses_once",
    )),
    Evidence("refused", EPOCH_LOGS, _EPOCHS, (
        "test_refused_output_fails_the_job_and_is_kept_until_the_store_takes_it",
    )),
    Evidence("refused", EAGER, _EAGER, ("test_refused_rows_fail_the_job_and_are_kept",)),
    Evidence("refused", ("KafkaSink",), _KAFKA_SINK, (
        "test_record_that_is_too_large_is_refused_for_good",
    )),
    Evidence("refused", ("KafkaSink, at-least-once",), _KAFKA_SINK, (
        "test_at_least_once_fails_its_attempt_where_a_record_is_not_taken",
    )),
    Evidence("unfit", ("TextFiles",), _TYPED, (
        "test_line_that_cannot_be_decoded_becomes_a_dead_letter",
    )),
    Evidence("unfit", ("JsonLinesFiles, read",), _TYPED, (
        "test_dead_letter_has_the_text_and_its_representation_has_not",
    )),
    Evidence("unfit", ("CsvFiles, read",), "tests/unit/connectors/test_csv_files.py", (
        "test_line_that_does_not_fit_becomes_a_dead_letter_between_records",
    )),
    Evidence("unfit", ("ParquetFiles, read",), "tests/unit/connectors/test_parquet_files.py", (
        "test_row_that_does_not_fit_fails_or_becomes_a_dead_letter",
    )),
    Evidence("unfit", ("KafkaSource",), _KAFKA_LETTERS, (
        "test_value_that_is_not_of_its_format_becomes_a_dead_letter_in_its_place",
        "test_key_that_is_not_of_its_format_becomes_a_dead_letter",
    )),
    Evidence("unfit", ("PostgresTable", "PostgresChanges"), _PG_TYPED, (
        "test_records_and_dead_letters_come_once_over_a_failure",
    )),
    Evidence("unfit", ("PostgresTable",), _PG_TYPED, (
        "test_restored_between_dead_letters_it_goes_on_with_the_next_row",
    )),
    Evidence("unfit", ("PostgresChanges",), _PG_TYPED, (
        "test_restored_within_a_transaction_a_dead_letter_comes_once",
        "test_large_value_that_the_log_leaves_out_is_a_dead_letter_and_no_default",
    )),
    Evidence("unfit", FITTED, _FITTING, (
        "test_misfit_is_told_with_the_reason_and_without_the_value",
    )),
    Evidence("unfit", ("JsonLinesFiles",), _LETTERS, (
        "test_records_and_dead_letters_come_once_in_every_world",
    )),
    Evidence("unfit", ("KafkaSink",), _KAFKA_LETTERS, (
        "test_job_writes_what_fits_and_its_dead_letters_go_beside",
    )),
    Evidence("unfit", ("SQLite",), _LETTERS, (
        "test_job_that_fails_writes_each_record_or_dead_letter_once",
    )),
    Evidence("zombie", ALL_SINKS, _SINK, (
        "test_commit_that_is_late_is_of_its_own_epoch_and_not_of_the_one_being_written",
    )),
    Evidence("zombie", EPOCH_LOGS, _EPOCHS, (
        "test_attempt_that_has_been_replaced_commits_nothing_of_its_own",
        "test_attempt_that_has_been_replaced_recovers_nothing",
    )),
    Evidence("zombie", ("KafkaSink",), _KAFKA_SINK, (
        "test_what_a_dead_attempt_left_open_is_ended_by_the_next_and_readers_go_on",
        "test_late_repeat_of_an_epoch_changes_nothing_after_later_ones",
    )),
    Evidence("zombie", ("PostgresChanges",), _CDC, (
        "test_new_attempt_takes_the_slot_from_one_that_still_reads",
    )),
    Evidence("gone", ("TextFiles",), _TEXT, (
        "test_vanished_file_is_a_storage_error_that_names_it",
        "test_file_that_is_shorter_than_the_position_is_a_storage_error",
        "test_file_that_shrinks_while_it_is_read_is_a_storage_error",
    )),
    Evidence("gone", ("TextFiles, follow",), _FOLLOW, (
        "test_truncated_file_is_read_from_its_beginning_and_named",
        "test_file_that_is_removed_while_nobody_looks_is_named_with_what_may_be_lost",
        "test_file_that_is_removed_while_it_is_open_is_read_to_its_end",
    )),
    Evidence("gone", ("FromIterable",), "tests/unit/connectors/test_iterable.py", (
        "test_fewer_values_than_were_read_before_is_a_storage_error",
    )),
    Evidence("gone", ("KafkaSource",), _KAFKA_LOSS, (
        "test_records_that_were_deleted_before_they_were_read_are_an_error",
        "test_topic_that_was_made_anew_is_an_error",
        "test_topic_that_is_gone_at_a_restore_is_an_error_and_not_an_end",
    )),
    Evidence("gone", ("PostgresChanges",), _CDC, (
        "test_changes_that_the_slot_no_longer_keeps_are_an_error_and_no_gap",
    )),
    Evidence("gone", ("JsonLinesFiles", "CsvFiles"), "tests/unit/connectors/test_parts.py", (
        "test_commit_of_a_part_that_is_gone_says_whose_output_is_missing",
    )),
    Evidence("gone", ("Collect",), _COLLECT, (
        "test_part_that_was_changed_after_prepare_is_not_committed",
    )),
    Evidence("gone", EPOCH_LOGS, "tests/unit/connectors/test_epoch_log.py", (
        "test_epoch_whose_file_was_changed_is_not_read",
        "test_epoch_whose_file_is_gone_is_an_error_that_names_it",
    )),
    Evidence("gone", SOURCES_OF_OBJECTS, "tests/unit/connectors/test_object_reading.py", (
        "test_object_that_has_vanished_is_a_storage_error_that_names_it",
        "test_object_that_was_changed_is_not_read_on",
    )),
    Evidence("gone", FOLLOWED, _FOLLOWED, (
        "test_object_that_is_gone_before_its_turn_is_left_out_and_the_log_says_so",
        "test_object_that_goes_while_it_is_read_is_an_error",
    )),
    Evidence("gone", SINKS_OF_OBJECTS, "tests/unit/connectors/test_object_output.py", (
        "test_commit_of_a_part_that_is_gone_says_whose_output_is_missing",
        "test_commit_takes_nothing_else_for_its_part",
    )),
    Evidence("kill", ("Generator", "JsonLinesFiles"), _KILLS, (
        "test_a_worker_may_die_at_any_protocol_step",
        "test_a_job_manager_may_die_at_any_protocol_step",
        "test_kills_at_random_moments_lose_and_double_nothing",
    )),
    Evidence("kill", ("KafkaSource", "KafkaSink"), _KAFKA_JOB, (
        "test_worker_that_is_killed_between_checkpoints_loses_and_doubles_nothing",
        "test_partitions_found_while_it_runs_are_read_once_over_kills_and_restarts",
    )),
    Evidence("kill", ("KafkaSource", "Postgres"), _END_TO_END, (
        "test_kills_from_kafka_to_postgres_lose_and_double_no_payment",
    )),
    Evidence("kill", ("TextFiles, objects", "JsonLinesFiles, objects"), _OBJECTS, (
        "test_worker_that_is_killed_between_bucket_and_bucket_loses_and_doubles_nothing",
    )),
    Evidence("server", ("KafkaSource", "KafkaSink"), _KAFKA_JOB, (
        "test_broker_that_is_killed_and_comes_back_costs_no_record_and_doubles_none",
    )),
    Evidence("server", ("Postgres",), _JOBS, (
        "test_server_that_crashes_under_a_job_holds_each_record_once_in_the_end",
    )),
    Evidence("server", ("Postgres",), "tests/connectors/test_postgres_sink.py", (
        "test_server_that_crashes_under_a_commit_holds_the_epoch_once_in_the_end",
    )),
)  # fmt: skip


def table() -> str:
    """Return the generated part of the page: what was tested, and by which tests."""
    titles = " | ".join(f"`{fault}`" for fault in FAULTS)
    lines = [f"| connector | | guarantee | {titles} |", "|---|---|---|" + "---|" * len(FAULTS)]
    for connector, role, promise in GUARANTEES:
        counts = (str(len(_tests_of(fault, connector)) or "") for fault in FAULTS)
        name = connector.partition(",")[0]
        lines.append(f"| `{name}` | {role} | {promise} | {' | '.join(counts)} |")
    lines += ["", "| fault | of | tests |", "|---|---|---|"]
    former = ""
    for fault, connectors, path, tests in EVIDENCE:
        said = f"**`{fault}`** {FAULTS[fault]}" if fault != former else ""
        former = fault
        links = ", ".join(f"[`{test}`](../{path})" for test in tests)
        lines.append(f"| {said} | {', '.join(map(_shown, connectors))} | {links} |")
    return "\n".join(lines)


def _tests_of(fault: str, connector: str) -> set[tuple[str, str]]:
    return {
        (evidence.path, test)
        for evidence in EVIDENCE
        if evidence.fault == fault and connector in evidence.connectors
        for test in evidence.tests
    }


def _shown(connector: str) -> str:
    name, _, mode = connector.partition(", ")
    return f"`{name}` ({mode})" if mode else f"`{name}`"


def classes(guarantees: Iterable[Guarantee] = GUARANTEES) -> set[str]:
    """Return the names of the classes that something is promised of."""
    return {one.connector.partition(",")[0] for one in guarantees}


def page(text: str) -> str:
    """Return the page's text with the generated part in its place.

    Raises:
        ValueError: the page has no place for it.
    """
    return PART.put(text, table())


def main() -> int:
    """Write the page."""
    PAGE.write_text(page(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
