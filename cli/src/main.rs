//! The one binary `evenkeel`.
//!
//! Results go to stdout, errors and the log to stderr, nothing ever prompts. Each command is one file in
//! [`command`]; exit codes are in [`exit`].

mod admin;
mod command;
mod config;
mod daemon;
mod demo;
mod exit;
mod options;
mod output;
mod units;

use std::{io::IsTerminal, process::ExitCode};

use clap::{CommandFactory, Parser};
use tracing_subscriber::EnvFilter;

use crate::{command::Command, options::Options};

/// Keeps a virtual block device identical on several machines.
#[derive(Debug, Parser)]
#[command(name = "evenkeel", version, about, arg_required_else_help = true)]
struct Arguments {
    #[command(flatten)]
    options: Options,
    #[command(subcommand)]
    command: Command,
}

fn main() -> ExitCode {
    // Usage errors end here, with exit code 2 and the way out on stderr.
    let arguments = Arguments::parse();
    start_log();
    end_on_panic();
    match arguments.command.run(&arguments.options, Arguments::command()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Nothing is left to do if stderr is gone too.
            let _ = std::io::Write::write_fmt(&mut std::io::stderr(), format_args!("evenkeel: {error:#}\n"));
            exit::code_of(&error).into()
        }
    }
}

/// The log goes to stderr; RUST_LOG chooses how much of it, and "info" is the default.
fn start_log() {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .init();
}

/// A failed assertion ends the process, whichever task or thread met it: a half-dead server that still holds
/// its lock and its clients is worse than none.
fn end_on_panic() {
    let print = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        print(panic);
        std::process::abort();
    }));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_sound() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn options_stand_before_or_after_arguments() {
        let before = ["evenkeel", "serve", "--size", "1GiB", "--socket", "/s", "--export", "r0", "/disk"];
        let after = ["evenkeel", "serve", "/disk", "--size", "1GiB", "--export", "r0", "--socket", "/s"];
        let [before, after] = [before, after].map(|line| format!("{:?}", Arguments::parse_from(line)));
        assert_eq!(before, after);
    }

    #[test]
    fn wrong_usage_is_refused_with_the_reason() {
        let refusal = |line: &[&str]| {
            let line = ["evenkeel", "serve", "/disk"].iter().chain(line);
            Arguments::try_parse_from(line).expect_err("refused").to_string()
        };
        assert!(refusal(&[]).contains("--socket"));
        assert!(refusal(&["--tcp", "0.0.0.0:10809"]).contains("not encrypted"));
        assert!(refusal(&["--tcp", "[::]:1"]).contains("not encrypted"));
        assert!(refusal(&["--tcp", "localhost"]).contains("127.0.0.1:10809"));
        assert!(refusal(&["--socket", "/s", "--size", "12 apples"]).contains("KiB"));
        assert!(refusal(&["--socket", "/s", "--disk-backend", "aio"]).contains("io_uring or pread"));
        assert!(refusal(&["--socket", "/s", "--export", ""]).contains("export name"));
    }
}
