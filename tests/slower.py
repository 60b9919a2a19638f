"""What only `make test-full` runs: of products of parameters, whose entries all have another case that always runs."""

OTHERS = r"(roberta|xlm-roberta|distilbert|electra|mpnet)"

SLOWER = (
    # the same method is resumed in its first stage, and other methods at the other steps
    r"test_a_resumed_run_is_the_uninterrupted_one\[(mpq-.*-2|(mpq|sdq|fdq|channelwise|aq-bert)-2-.*)\]",
    r"test_accumulated_gradients_are_those_of_the_batch\[(mpq-4|q8-2|class-based-2|aq-bert-2)\]",
    r"test_two_processes_train_as_one\[(aq-bert|vertical)\]",
    r"test_from_the_same_weights_every_step_has_the_same_gradient_however_it_is_cut\[(vertical|channelwise)\]",
    r"test_accumulated_gradients_are_those_of_the_batch\[weight-coupling-2\]",
    # each family with some of the kinds, each kind with some of the families
    rf"test_the_kept_space_is_the_one_that_would_be_made\[{OTHERS}-(fixed|nested|rules)\]",
    r"test_what_is_derived_is_what_was_given\[(columns|element|n:m|table)-(albert|deberta-v2)\]",
    r"test_every_method_compresses_and_packs\[(albert|modernbert)-(?!mpq|vertical|sdq|fdq|weight-coupling)",
    rf"test_the_encoder_of_a_quantized_model_is_saved_alone\[{OTHERS}-trainable\]",
    r"test_both_storages_keep_the_names_of_the_model\[.*-masked-trainable\]",
    r"test_one_checkpoint_fits_every_head\[(albert|modernbert)-trainable\]",
    r"test_copies\[(albert|modernbert)-.*-pickle\]",
    r"test_ranges_and_gates_are_as_before\[(dynamic-tensor|learned)-(?!softmax)",
    r"test_trained_is_packed_is_reloaded\[(albert|deberta-v2|modernbert)-token\]",
    # the other kernel paths run the plain kinds; see also the harness that is compiled by itself
    r"test_native.py::test_hidden_states_are_those_of_double_precision\[(avx2|avx-vnni)-(?!.*(\{\}|static))",
    # seconds each
    r"test_served.py::test_an_8_bit_model_that_is_cut_down_is_far_behind_one_that_was_trained_for_it",
    r"test_hyperspherical.py::test_the_cosine_of_a_gaussian_is_the_closed_form\[(?!0\.0)",
    r"test_automatic.py::test_a_prepared_model_can_be_compiled",
    r"cli/test_compress.py::test_interrupted",
)
