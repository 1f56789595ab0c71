//! The table: which rule of which section of the specification is proven by which test.
//!
//! It is checked against the test harness (each entry names a test that runs, each test has an entry) and
//! against the list of sections that concern a server (each has an entry).

use std::{collections::BTreeSet, fs, path::Path, process::Command};

use anyhow::{Context, Result, ensure};

/// The sections of the specification that bind a server without TLS and without the experimental extensions.
const SECTIONS: &[&str] = &[
    "Conventions",
    "Newstyle negotiation",
    "Fixed newstyle negotiation",
    "Termination of the session during option haggling",
    "Transmission",
    "Ordering of messages and writes",
    "Request message",
    "Simple reply message",
    "Structured reply chunk message",
    "Terminating the transmission phase",
    "NOTLS mode",
    "Size constraints",
    "Metadata querying",
    "The `base:` metadata namespace",
    "`base:allocation` metadata context",
    "Handshake flags",
    "Client flags",
    "Transmission flags",
    "NBD_OPT_EXPORT_NAME",
    "NBD_OPT_ABORT",
    "NBD_OPT_LIST",
    "NBD_OPT_STARTTLS",
    "NBD_OPT_INFO and NBD_OPT_GO",
    "NBD_OPT_STRUCTURED_REPLY",
    "NBD_OPT_LIST_META_CONTEXT",
    "NBD_OPT_SET_META_CONTEXT",
    "Option reply types",
    "NBD_REP_INFO",
    "Command flags",
    "Structured reply flags",
    "Structured reply types",
    "NBD_CMD_READ",
    "NBD_CMD_WRITE",
    "NBD_CMD_DISC",
    "NBD_CMD_FLUSH",
    "NBD_CMD_TRIM",
    "NBD_CMD_CACHE",
    "NBD_CMD_WRITE_ZEROES",
    "NBD_CMD_BLOCK_STATUS",
    "Error values",
    "Baseline",
    "Maximum interoperability",
];

/// One rule and the test that proves it.
struct Rule {
    section: &'static str,
    rule: &'static str,
    test: &'static str,
}

macro_rules! rules {
    ($($section:literal { $($rule:literal => $module:ident::$test:ident),+ $(,)? })+) => {
        const RULES: &[Rule] = &[$($(Rule {
            section: $section,
            rule: $rule,
            test: concat!(stringify!($module), "::", stringify!($test)),
        }),+),+];
    };
}

rules! {
    "Conventions" {
        "strings up to 4096 bytes; longer, not UTF-8 or with NUL is refused" => info::conventions_names_at_the_limits_are_refused_in_step,
        "names of 256 bytes and in any script are names" => options::conventions_long_and_foreign_export_names_are_served,
    }
    "Newstyle negotiation" {
        "MUST close on client flags that it does not know" => handshake::client_flags_unknown_bit_closes_the_connection,
        "124 zeroes unless NO_ZEROES" => handshake::newstyle_negotiation_reserved_zeroes_follow_the_client_flag,
        "MUST terminate the session for an export that it does not allow" => options::export_name_unknown_closes_the_connection,
        "options begin with IHAVEOPT" => handshake::newstyle_negotiation_wrong_option_magic_closes_the_connection,
    }
    "Fixed newstyle negotiation" {
        "format of option replies" => handshake::fixed_newstyle_negotiation_reply_has_the_documented_format,
        "one final reply for each option, in order" => handshake::fixed_newstyle_negotiation_pipelined_options_are_answered_in_order,
        "a repeated change of state MAY be ERR_INVALID" => handshake::fixed_newstyle_negotiation_repeated_state_change_is_harmless,
    }
    "Termination of the session during option haggling" {
        "MUST simply error inbound options" => handshake::termination_of_haggling_refused_options_do_not_end_the_session,
        "ERR_SHUTDOWN while shutting down" => handshake::termination_of_haggling_shutdown_refuses_or_closes,
    }
    "Transmission" {
        "MUST use only simple replies without negotiation" => transmission::simple_reply_message_is_used_without_negotiation,
        "MUST use the client's cookie, opaque" => transmission::transmission_cookies_come_back_unchanged,
        "replies in any order, each with its own cookie" => transmission::transmission_many_requests_in_flight_are_told_apart,
    }
    "Ordering of messages and writes" {
        "FLUSH covers replied writes, on any connection" => ordering::ordering_flush_covers_replied_writes_of_other_connections,
        "FLUSH covers TRIM and WRITE_ZEROES" => ordering::ordering_flush_covers_trim_and_write_zeroes,
        "FLUSH amid writes in flight" => ordering::ordering_flush_amid_writes_completes,
        "a replied write is read by everybody" => ordering::ordering_replied_writes_are_read_everywhere,
        "FUA is persisted before its reply" => commands::command_flags_fua_data_is_in_the_image_at_the_reply,
        "unix socket and TCP serve one device" => ordering::ordering_holds_between_tcp_and_unix_socket,
    }
    "Request message" {
        "a wrong magic closes" => transmission::request_message_wrong_magic_closes_the_connection,
        "a wrong magic undoes nothing" => transmission::request_message_wrong_magic_does_not_undo_what_was_replied,
        "a request may arrive in pieces" => ranges::request_message_in_pieces_is_one_request,
    }
    "Simple reply message" {
        "format" => transmission::simple_reply_message_has_the_documented_format,
        "MUST be sent in response to all requests without negotiation" => transmission::simple_reply_message_is_used_without_negotiation,
    }
    "Structured reply chunk message" {
        "MUST use structured replies for READ" => structured::structured_read_of_data_and_holes_is_complete,
        "MUST NOT use a simple reply even for an early EINVAL" => structured::structured_read_error_is_a_chunk_with_a_text,
        "errors SHOULD be structured, with a text" => structured::structured_errors_of_other_commands_have_a_text,
        "chunks of different replies are told apart by cookie" => structured::structured_replies_of_many_reads_are_told_apart,
    }
    "Terminating the transmission phase" {
        "DISC closes" => transmission::disc_outstanding_requests_are_handled_and_nothing_answers_it,
        "shutdown serves requests in flight, or answers ESHUTDOWN" => transmission::terminating_transmission_shutdown_answers_what_is_in_flight,
        "shutdown answers what has not begun with ESHUTDOWN" => transmission::terminating_transmission_shutdown_refuses_what_has_not_begun,
    }
    "NOTLS mode" {
        "STARTTLS MUST be ERR_POLICY or ERR_UNSUP; never ERR_TLS_REQD" => handshake::notls_mode_starttls_is_refused_and_never_required,
    }
    "Size constraints" {
        "advertised sizes are consistent" => info::size_constraints_are_the_defaults,
        "32 MiB are served" => ranges::size_constraints_32_mib_are_written_and_read,
        "a longer READ" => ranges::size_constraints_longer_read_is_refused_in_step,
        "a longer WRITE" => ranges::size_constraints_longer_write_is_refused_or_ends_the_connection,
        "commands without payload SHOULD NOT disconnect" => ranges::size_constraints_commands_without_payload_may_be_longer,
        "minimum block 1: any offset and length" => ranges::size_constraints_unaligned_requests_leave_their_neighbours,
        "read-modify-write loses no neighbour" => ranges::size_constraints_concurrent_writes_within_one_block_are_all_kept,
        "large unaligned writes lose no border" => ranges::size_constraints_concurrent_unaligned_writes_keep_their_borders,
        "a size that is no multiple of the preferred block" => ranges::size_constraints_odd_size_is_usable_to_the_last_byte,
    }
    "Metadata querying" {
        "EINVAL without a selected context" => block_status::block_status_without_context_is_invalid,
        "the same export name in GO" => meta_context::metadata_querying_needs_the_same_name_in_go,
        "MUST respond with one chunk per selected context" => block_status::block_status_answers_in_the_selected_context,
    }
    "The `base:` metadata namespace" {
        "`base:` MUST be a wildcard of LIST" => meta_context::base_namespace_wildcard_lists_base_contexts,
        "`base:` MUST be ignored by SET" => meta_context::base_namespace_wildcard_selects_nothing,
        "unknown leaf names MUST be ignored" => meta_context::base_namespace_unknown_leaf_is_ignored,
    }
    "`base:allocation` metadata context" {
        "HOLE and ZERO tell the truth; reserved bits are zero" => block_status::base_allocation_tells_data_from_zeroes,
    }
    "Handshake flags" {
        "FIXED_NEWSTYLE MUST be set, others MUST NOT" => handshake::handshake_flags_are_fixed_newstyle_and_no_zeroes_and_nothing_else,
        "NO_ZEROES is kept, both ways" => handshake::newstyle_negotiation_reserved_zeroes_follow_the_client_flag,
    }
    "Client flags" {
        "MUST drop the connection on an unknown flag" => handshake::client_flags_unknown_bit_closes_the_connection,
        "no flags: EXPORT_NAME works" => handshake::client_flags_none_still_allows_export_name,
    }
    "Transmission flags" {
        "HAS_FLAGS MUST be set, those of extensions clear" => transmission::transmission_flags_are_consistent,
        "SEND_DF MUST be clear without structured replies" => transmission::transmission_flags_df_depends_on_structured_replies,
        "READ_ONLY: MUST error writes" => commands::read_only_export_refuses_every_change,
        "CAN_MULTI_CONN: effects of FLUSH are visible on all connections" => ordering::ordering_flush_covers_replied_writes_of_other_connections,
        "CAN_MULTI_CONN: effects of FUA are visible on all connections" => ordering::ordering_fua_is_visible_on_other_connections,
    }
    "NBD_OPT_EXPORT_NAME" {
        "enters transmission" => options::export_name_enters_transmission,
        "MUST terminate the session for an unknown export" => options::export_name_unknown_closes_the_connection,
        "the empty name is the default export" => options::export_name_empty_is_the_default_export,
    }
    "NBD_OPT_ABORT" {
        "MUST reply with ACK" => options::abort_is_acknowledged,
        "SHOULD ignore data" => options::abort_with_data_is_acknowledged,
        "SHOULD bear with a client that closes at once" => options::abort_without_waiting_is_harmless,
    }
    "NBD_OPT_LIST" {
        "one SERVER for each export, then ACK" => options::list_names_the_exports,
        "data SHOULD be ERR_INVALID" => options::list_with_data_is_invalid,
    }
    "NBD_OPT_STARTTLS" {
        "MUST reply with ACK or a permitted error" => handshake::notls_mode_starttls_is_refused_and_never_required,
    }
    "NBD_OPT_INFO and NBD_OPT_GO" {
        "INFO_EXPORT MUST be sent, also for no requests" => info::info_and_go_without_requests_send_info_export,
        "INFO_EXPORT MUST be sent, also when others are requested" => info::info_and_go_with_other_requests_send_info_export,
        "MUST ignore unknown requests" => info::info_and_go_unknown_requests_are_ignored,
        "many requests" => info::info_and_go_many_requests_are_answered,
        "ERR_UNKNOWN without INFO" => info::info_and_go_unknown_export_is_refused,
        "the name MUST fit the option's data" => info::info_and_go_lying_lengths_are_invalid_and_leave_the_stream_in_step,
        "INFO continues the handshake" => info::info_continues_the_handshake,
        "GO after INFO MUST tell the same" => info::go_after_info_tells_the_same,
        "MUST NOT send zeroes after GO" => info::go_is_never_followed_by_zeroes,
        "BLOCK_SIZE_REQD is not for default sizes" => info::go_without_block_size_request_is_accepted,
    }
    "NBD_OPT_STRUCTURED_REPLY" {
        "ACK: READ is structured" => options::structured_reply_option_switches_reads,
        "data SHOULD be ERR_INVALID" => options::structured_reply_option_with_data_is_invalid,
    }
    "NBD_OPT_LIST_META_CONTEXT" {
        "zero queries MUST return all" => meta_context::list_meta_context_without_queries_returns_all,
        "MUST return those that match; none: a single ACK" => meta_context::list_meta_context_returns_what_matches,
        "changes nothing" => meta_context::list_meta_context_changes_nothing,
        "lying lengths MUST be ERR_INVALID" => meta_context::meta_context_lying_lengths_are_invalid_and_leave_the_stream_in_step,
        "odd queries" => meta_context::meta_context_odd_queries_select_nothing,
    }
    "NBD_OPT_SET_META_CONTEXT" {
        "one reply for each selected context" => meta_context::set_meta_context_selects_each_once,
        "ids are unique; all contexts together" => meta_context::set_meta_context_takes_all_that_list_names,
        "zero queries MUST select none" => meta_context::set_meta_context_without_queries_selects_none,
        "replaces the set also when it fails" => meta_context::set_meta_context_that_fails_replaces_the_set,
        "the last one counts" => meta_context::set_meta_context_last_one_counts,
        "needs structured replies" => meta_context::set_meta_context_needs_structured_replies,
        "an unknown export is refused" => meta_context::meta_context_unknown_export_is_refused,
        "too many queries MAY be ERR_TOO_BIG" => meta_context::meta_context_many_queries_are_answered,
    }
    "Option reply types" {
        "errors carry a text" => options::option_reply_types_errors_carry_a_text,
    }
    "NBD_REP_INFO" {
        "EXPORT, NAME, DESCRIPTION, BLOCK_SIZE" => info::info_types_name_description_and_block_size_are_told,
        "NAME is the canonical one" => info::info_types_name_is_the_canonical_one,
    }
    "Command flags" {
        "FUA MUST be accepted on all commands" => commands::command_flags_fua_is_accepted_on_every_command,
        "FUA MUST NOT be answered before it is persisted" => commands::command_flags_fua_data_is_in_the_image_at_the_reply,
        "NO_HOLE MUST be supported" => commands::write_zeroes_with_no_hole_allocates,
        "DF only when advertised" => commands::command_flags_df_without_structured_replies_is_invalid,
        "REQ_ONE: one extent" => block_status::req_one_brings_one_extent_within_the_request,
        "FAST_ZERO is honest" => commands::write_zeroes_fast_zero_is_honest,
        "flags of BLOCK_STATUS" => block_status::block_status_flags_are_checked,
    }
    "Structured reply flags" {
        "DONE on the last chunk and only there" => structured::structured_read_of_data_and_holes_is_complete,
    }
    "Structured reply types" {
        "OFFSET_DATA" => structured::structured_reply_types_offset_data_has_the_documented_format,
        "OFFSET_HOLE" => structured::structured_reply_types_holes_read_as_zeroes,
        "BLOCK_STATUS: extents begin at the offset" => block_status::block_status_extents_begin_at_the_offset,
        "ERROR" => structured::structured_read_error_is_a_chunk_with_a_text,
    }
    "NBD_CMD_READ" {
        "what was written" => commands::write_and_read_round_trip,
        "DF: at most one content chunk, zeroes explicit" => structured::df_brings_one_content_chunk,
        "DF: EOVERFLOW without content for a long one" => structured::df_of_a_long_read_is_one_chunk_or_overflow,
    }
    "NBD_CMD_WRITE" {
        "MUST write the data" => commands::write_and_read_round_trip,
        "a refused payload is drained" => ranges::write_refused_payload_is_drained,
        "length zero SHOULD NOT disconnect" => commands::request_types_length_zero_keeps_the_connection,
    }
    "NBD_CMD_DISC" {
        "MUST handle outstanding requests; no reply" => transmission::disc_outstanding_requests_are_handled_and_nothing_answers_it,
        "nothing after it is carried out" => transmission::disc_what_follows_is_ignored,
        "odd fields" => transmission::disc_with_odd_fields_closes_the_connection,
    }
    "NBD_CMD_FLUSH" {
        "is answered; reserved fields" => commands::flush_is_answered,
    }
    "NBD_CMD_TRIM" {
        "leaves the rest alone" => commands::trim_reads_as_zeroes_and_leaves_the_rest,
    }
    "NBD_CMD_CACHE" {
        "MUST NOT change semantics" => commands::cache_changes_nothing,
    }
    "NBD_CMD_WRITE_ZEROES" {
        "MUST zero out the data" => commands::write_zeroes_reads_as_zeroes_and_leaves_the_rest,
        "NO_HOLE: fully provisioned" => commands::write_zeroes_with_no_hole_allocates,
        "ENOTSUP only for FAST_ZERO" => commands::write_zeroes_fast_zero_is_honest,
    }
    "NBD_CMD_BLOCK_STATUS" {
        "MUST return at least one extent: progress" => block_status::block_status_walk_covers_the_export,
        "EINVAL beyond the end" => block_status::block_status_beyond_the_end_is_invalid,
        "length zero SHOULD NOT disconnect" => block_status::block_status_of_length_zero_keeps_the_connection,
        "large requests are bounded" => block_status::block_status_of_a_large_export_is_bounded,
    }
    "Error values" {
        "READ, TRIM beyond the end: EINVAL" => ranges::error_values_read_and_trim_beyond_the_end_are_invalid,
        "WRITE beyond the end: ENOSPC" => ranges::error_values_write_beyond_the_end_is_no_space,
        "unknown command: EINVAL" => commands::error_values_unknown_command_is_invalid_and_leaves_the_stream_in_step,
        "unknown or foreign flag: EINVAL" => commands::error_values_flags_of_other_commands_are_invalid,
        "read-only: EPERM" => commands::read_only_export_refuses_every_change,
    }
    "Baseline" {
        "unknown option MUST be ERR_UNSUP, next message MUST be parsed" => handshake::baseline_unknown_option_is_unsupported_and_leaves_the_stream_in_step,
        "LIST" => options::list_names_the_exports,
        "ABORT" => options::abort_is_acknowledged,
        "simple replies, READ, WRITE" => commands::write_and_read_round_trip,
    }
    "Maximum interoperability" {
        "block sizes are not required" => info::go_without_block_size_request_is_accepted,
        "EXPORT_NAME" => options::export_name_enters_transmission,
        "FLUSH and FUA" => transmission::transmission_flags_are_consistent,
    }
}

/// Every section has a rule, and every rule is of a known section.
#[test]
fn every_section_has_a_test() {
    let covered: BTreeSet<_> = RULES.iter().map(|rule| rule.section).collect();
    let sections: BTreeSet<_> = SECTIONS.iter().copied().collect();
    assert_eq!(covered, sections);
    assert_eq!(sections.len(), SECTIONS.len(), "a section stands twice");
    assert!(RULES.iter().all(|rule| !rule.rule.is_empty()));
}

/// The table and the harness know the same tests: none is forgotten in the table, or lost from the harness.
#[test]
fn the_table_and_the_harness_agree() -> Result<()> {
    let output = Command::new(std::env::current_exe()?).args(["--list", "--format", "terse"]).output()?;
    ensure!(output.status.success(), "the harness does not list its tests");
    let listed = String::from_utf8(output.stdout)?;
    let run: BTreeSet<_> = listed
        .lines()
        .filter_map(|line| line.strip_suffix(": test"))
        .filter(|name| !name.starts_with("rules::"))
        .collect();
    let table: BTreeSet<_> = RULES.iter().map(|rule| rule.test).collect();
    assert_eq!(table, run);
    Ok(())
}

/// The tests that `docs/nbd.md` names (a `*` ends a prefix) exist: the first part is the test program, the second
/// the file, the third the function.
#[test]
fn the_documentation_names_real_tests() -> Result<()> {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR"));
    let page = fs::read_to_string(tests.join("../docs/nbd.md"))?;
    let mut named = 0;
    for name in page.split('`').skip(1).step_by(2) {
        let parts: Vec<_> = name.split("::").collect();
        let &[program @ ("conformance" | "hostile" | "clients"), file, test] = &parts[..] else { continue };
        if file.contains('*') || file == "…" {
            continue;
        }
        let path = tests.join("nbd").join(program).join(file).with_extension("rs");
        let source = fs::read_to_string(&path).with_context(|| format!("{name}: {}", path.display()))?;
        ensure!(
            source.contains(test.trim_end_matches('*')),
            "{name} is named in docs/nbd.md and does not exist"
        );
        named += 1;
    }
    ensure!(named > 50, "only {named} tests are named in docs/nbd.md");
    Ok(())
}
