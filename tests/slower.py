"""What only `make test-full` runs: of products of parameters, whose entries all have another case that always runs."""

OTHERS = r"(roberta|xlm-roberta|distilbert|electra|mpnet)"
ONE_STORAGE = r"\[(albert-trainable|deberta-v2-packed|modernbert-trainable)\]"
"""Of families beside the first, which has both."""
CODES = r"test_(codes_decode_to_the_forward_value|decoded_weights_encode_to_the_same_codes)"
LAYOUTS = ("even rows|columns", "uneven rows|fused shards", "channel|even rows", "matrix|uneven rows|head")
LAYOUTS_OF = "|".join(f"[{low}{low + 4}]-({names})" for low, names in enumerate(LAYOUTS, 1))
"""Of each precision some layouts, of each layout some precisions."""
OTHER_PATHS = r"(avx512-vnni|avx512|avx2|avx-vnni)"
"""Of the kernel, beside the best one of a machine with all of them and the one in plain code."""

SLOWER = (
    # the same method is resumed in its first stage, and other methods at the other steps
    r"test_a_resumed_run_is_the_uninterrupted_one\[(mpq-.*-2|(mpq|sdq|fdq|channelwise|aq-bert|bsq)-2-.*)\]",
    r"test_a_resumed_run_is_the_uninterrupted_one\[(csq|ghost|hyperspherical)-",
    r"test_accumulated_gradients_are_those_of_the_batch\[(mpq-4|q8-2|class-based-2|aq-bert-2)\]",
    r"test_two_processes_train_as_one\[(aq-bert|vertical)\]",
    r"test_the_ragged_end_of_an_epoch_is_one_step_for_two_processes_too",
    r"test_from_the_same_weights_every_step_has_the_same_gradient_however_it_is_cut\[(vertical|channelwise)\]",
    r"test_accumulated_gradients_are_those_of_the_batch\[(weight-coupling|uniform|hyperspherical|prune-ofa-pretrain)-2\]",
    r"test_a_signal_within_a_step_stops_after_it\[2\]",
    r"test_answers_and_numbers_are_learned\[(mpq-sequence|q8-question)",
    r"test_a_resumed_run_is_the_uninterrupted_one\[(bsq|channelwise|aq-bert|vertical)-",
    r"test_channel_expansion.py::test_an_interrupted_run_ends_as_the_uninterrupted_one\[(2-qat-2|1-search-3)\]",
    r"test_a_run_that_is_killed_between_two_files_ends_as_the_uninterrupted_one\[.*(select-1|decide-1)\]",
    r"test_accumulated_gradients_are_those_of_the_batch\[(channel-expansion|channelwise)-2\]",
    r"test_every_search_is_projected_into_all_limits\[(bilevel|alternating|phases|continuous-.*)-open\]",
    r"test_every_allocator_keeps_all_limits_of_a_model\[lagrangian-as ",
    # each family with some of the kinds, each kind with some of the families
    r"test_the_kept_space_is_the_one_that_would_be_made\[(albert-(fixed|rules)|deberta-v2-(fixed|nested))",
    r"test_the_kept_space_is_the_one_that_would_be_made\[modernbert-(nested|rules)",
    r"test_what_is_derived_is_what_was_given\[(?!plain|nested).*-albert\]",
    r"test_what_is_derived_is_what_was_given\[(?!patterns-|open inputs).*-deberta-v2\]",
    r"test_what_is_derived_is_what_was_given\[(?!plain|each its own).*-modernbert\]",
    r"test_what_was_chosen_is_what_is_packed\[(albert-(?!gptq)|deberta-v2-(?!autoround)|modernbert-(?!lkd))",
    r"test_rounder_contract.py::test_every_head\[(bare|question|masked)-(?!autoround)",
    r"test_rounder_contract.py::test_every_head\[token-(?!gptq|lkd)",
    r"test_same_seed_same_weights\[albert-(gptq|nearest)",
    r"test_every_method_compresses_and_packs\[albert-(?!vertical)",
    r"test_every_method_compresses_and_packs\[modernbert-(?!mpq)",
    rf"test_the_encoder_of_a_quantized_model_is_saved_alone\[{OTHERS}-trainable\]",
    rf"test_a_part_quantized_alone_is_saved_with_the_whole\[({OTHERS}|albert|modernbert)-",
    r"test_a_part_quantized_alone_is_saved_with_the_whole\[((encoder|pair|reader)-trainable|(decoder|head)-packed)\]",
    rf"test_gamma_and_beta\[{OTHERS}\]",
    r"test_one_checkpoint_fits_every_head\[(deberta-v2-packed|albert-packed|bert-trainable)\]",
    r"test_both_storages_keep_the_names_of_the_model\[(gte|jina_embeddings_v3|nomic_bert|ultrabert|esm)-bare-packed\]",
    r"test_there_and_back\[(albert.*|(bert|modernbert)-gamma|deberta-v2-os\+)\]",
    r"test_what_holds_a_packed_model_is_prepared_by_it\[(reference-embedder|cpu-float-ranker|auto-ranker)\]",
    r"test_trained_saved_loaded_merged\[deberta-v2\]",
    r"test_timing.py::test_a_model_is_measured\[(bert-reference|mpnet-cpu-float|albert-auto)\]",
    r"test_gptq_lowers_the_error_of_unseen_outputs\[(albert-.*|bert-options4)\]",
    r"test_both_storages_keep_the_names_of_the_model\[.*-masked-trainable\]",
    r"test_one_checkpoint_fits_every_head\[(albert|modernbert)-trainable\]",
    rf"test_(back_to_float|resizing_a_quantized_table_is_refused){ONE_STORAGE}",
    rf"test_(the_space_of_a_model_is_found_in_both_storages|every_sub_group_of_every_matrix_is_there){ONE_STORAGE}",
    r"test_copies\[((albert|modernbert)-.*-pickle|(albert-packed|deberta-v2-trainable|modernbert-trainable)-.*)\]",
    r"test_half_precision_reload_keeps_the_bytes\[((albert|modernbert)-torch.float16|deberta-v2-torch.bfloat16)",
    r"test_learned_ranges_survive_unpacking\[deberta-v2-(basis|static)",
    r"test_ranges_and_gates_are_as_before\[(basis|learned-range)-(?!softmax|gumbel)",
    r"test_ranges_and_gates_are_as_before\[(dynamic-tensor|learned)-(?!softmax)",
    r"test_trained_is_packed_is_reloaded\[(albert|deberta-v2|modernbert)-token\]",
    rf"test_every_family_(gives_what_it_gave|answers)\[{OTHERS}-static\]",
    # each quantizer with each precision and each layout, and so the strategies, the gates and what they are open to
    rf"{CODES}\[.*-(?!{LAYOUTS_OF})\d-[a-z ]+\]",
    r"test_(native_)?products_are_those_of_the_stored_weight\[.*-(channel|matrix)-(per tensor|static|4 bits)\]",
    r"strategies.py::test_the_contract\[[a-d].*-(softmax|neighbour)-open inputs",
    r"strategies.py::test_the_contract\[[a-d].*-(gumbel|planes)-float inputs",
    r"strategies.py::test_the_contract\[[e-z].*-(softmax|neighbour)-float inputs",
    r"strategies.py::test_the_contract\[[e-z].*-(gumbel|planes)-open inputs",
    r"test_projected_fisher_is_the_gauss_newton_form_of_each_sub_group\[(tables|columns)\]",
    r"test_what_scorers_change_is_what_quantizing_changes\[basis-(?!None)",
    r"test_scorers.py::test_contract\[(albert|modernbert)-(?!fisher|hessian)",
    r"test_scorers.py::test_contract\[deberta-v2-(?!kl|gradient)",
    r"test_every_head_can_be_scored\[(bare|token|question|masked|ranking|numbers)-(?!fisher|kl)",
    # exports of each family, of each way to choose ranges, and of each head
    r"test_onnx\[(albert-(dynamic|float)|deberta-v2-(static|float)|modernbert-(dynamic|static))",
    r"test_openvino\[(albert|deberta-v2)-static",
    r"test_onnx_has_the_outputs_of_every_head\[sequence",
    r"test_labels_are_not_taken_for_tokens\[sequence-9-",
    r"test_inputs_are_those_that_the_tokenizer_gives\[(xlm-roberta-1|roberta-2)-",
    r"test_files_are_as_small_as_reported\[4\]",
    r"test_a_prepared_model_is_exported_before_its_first_call\[bert-cpu-float-",
    # the other kernel paths run the plain kinds; see also the harness that is compiled by itself
    rf"test_native.py::test_hidden_states_are_those_of_double_precision\[{OTHER_PATHS}-(?!\{{\}}|.*'static'\}}\])",
    rf"test_planes_give_what_copied_levels_give\[{OTHER_PATHS}-(?!affine)",
    rf"test_what_is_pruned_away_leaves_the_planes\[{OTHER_PATHS}-(pointwise|heads)\]",
    r"test_native_forms.py::test_hidden_states_are_those_of_double_precision\[.*[^{]\}-static\]",
    r"test_integer_products_show_it\[.*-(torch.float32-static|torch.bfloat16-dynamic-token)\]",
    r"test_every_activation_function_shows_it\[.*-(relu-static|gelu_new-dynamic-token)\]",
    # the other ways to write files, the other widths of a page, the other family
    r"test_a_model_over_a_model\[(packed-change3-to shards|packed-change4-from shards|trainable-change6-single)\]",
    r"test_colours_of_the_page\[dark\]",
    r"test_the_page_of_a_model_in_memory\[deberta-v2\]",
    r"test_every_family_is_searched\[albert\]",
    # seconds each
    r"test_uniform_at_a_fraction_mixes_two_neighbours\[bits1-",
    r"test_served.py::test_an_8_bit_model_that_is_cut_down_is_far_behind_one_that_was_trained_for_it",
    r"test_served.py::test_one_run_of_vertical_is_a_row_at_each_precision",
    r"test_comparison.py::test_a_run_is_kept_until_its_row_is_written",
    r"test_recipes.py::test_every_method_runs\[channelwise",
    r"test_recipes.py::test_every_task_runs\[stsb",
    r"test_hyperspherical.py::test_the_cosine_of_a_gaussian_is_the_closed_form\[(?!0\.0)",
    r"test_automatic.py::test_a_prepared_model_can_be_compiled",
    r"test_compress_command.py::test_interrupted",
    r"cli/test_train.py::test_a_recipe_that_a_signal_ends",
    r"cli/test_examples.py::test_example\[hf-mpq train my_recipe",
)
