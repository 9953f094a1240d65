"""Tests that take long for what they add: each has a shorter one beside it. `make test-slow` runs them all."""

from __future__ import annotations

LONG_FORMS = (
    # many seconds of training, beside a test of the same promise on one run
    "tests/test_resume.py::test_a38_a42_a_finished_run_is_shown_and_false_gives_a_new_and_larger_number",
    "tests/test_resume.py::test_a43_a_number_by_hand_is_never_another_runs",
    "tests/test_resume.py::test_a45_a_run_of_another_home_is_repeated_here",
    "tests/test_resume.py::test_a45_what_is_otherwise_now_is_said_when_a_run_is_repeated",
    "tests/test_resume.py::test_a_name_that_stands_for_something_else_is_refused_with_the_difference",
    "tests/test_resume.py::test_a_torn_checkpoint_is_passed_over_and_the_run_ends_as_if_nothing_had_been[changed]",
    "tests/test_resume.py::test_other_code_or_packages_are_said_and_refused_where_that_is_asked",
    "tests/test_rehearsal.py::test_a_state_of_another_network_is_found",
    "tests/test_rehearsal.py::test_a_state_that_cannot_be_resumed_is_found_here_and_told_by_the_run",
    "tests/test_rehearsal.py::test_validation_needs_no_training_data",
    "tests/test_rehearsal.py::test_what_is_validated_has_all_of_its_weights_from_its_parent",
    "tests/test_disk_full.py::test_a_file_that_does_not_fit_ends_the_run_cleanly_and_the_same_command_goes_on[journal]",
    "tests/test_predictions.py::test_a_fit_that_was_lost_before_its_test_is_tested_when_the_run_goes_on_and_only_then",
    "tests/test_record.py::test_a_fresh_sqlite_store_opened_by_many_processes_at_once_works",
    "tests/test_trash.py::test_a_run_goes_to_the_trash_and_comes_back_as_it_was[server]",
    "tests/test_trash.py::test_a_store_that_is_away_is_an_error_before_anything_is_moved",
    "tests/contract/test_tracker.py::test_metrics_arrive_once_each_whatever_an_attempt_repeats[server]",
    "tests/seeds/test_asparagus.py::test_a51_a_function_of_ones_own_trains_with_number_lineage_and_record",
    "tests/seeds/test_asparagus.py::test_a51_a_train_script_of_ones_own_gets_number_folder_resolvers_and_shipped_configs",
    "tests/seeds/test_atommic.py::test_b1_without_a_logger_and_checkpoints_of_lightnings_the_run_is_recorded_and_can_be_gone_on_from",
    "tests/seeds/test_cellmap.py::test_e11_epochs_and_steps_are_numbered_on_after_a_restart",
    "tests/seeds/test_cellmap.py::test_e16_model_to_load_is_the_name_that_is_looked_for",
    "tests/seeds/test_cellmap.py::test_e19_a_stage_that_starts_from_nothing_takes_no_other_stages_weights",
    "tests/seeds/test_cellmap.py::test_e19_init_from_wins_and_that_is_said",
    "tests/seeds/test_cellmap.py::test_e19_latest_loads_the_newest_checkpoint_of_the_newest_run_of_that_name",
    "tests/seeds/test_cellmap.py::test_e1_a_path_is_trained_from_anywhere_and_its_own_paths_are_relative_to_its_folder",
    "tests/seeds/test_sesemi.py::test_d29_a_run_with_its_own_checkpoint_callback_is_resumable_from_what_that_wrote",
    "tests/seeds/test_sesemi.py::test_d30_a_config_of_ones_own_in_a_folder_of_ones_own_runs_with_code_in_src",
    # whole commands, beside a storm or another kill of the same kind
    "tests/e2e/test_failures.py::test_a_killed_worker_costs_no_epoch_no_number_and_no_metric[here_the_second_of_two]",
    "tests/e2e/test_failures.py::test_training_by_steps_ends_with_a_checkpoint_whatever_the_rhythm",
    "tests/e2e/test_corridor.py::test_2d_and_3d_are_one_setting",
    "tests/seeds/test_cellmap.py::test_e2_ray_workers_build_the_network_of_the_file_too",
)
