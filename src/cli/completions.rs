//! What shells complete of a command line of `ovpn-client`.

use std::io::Write as _;
use std::process::ExitCode;

use clap::Command;
use clap_complete::Shell;

use super::{EXIT_FAILED, complain};

/// What shells call it by.
const NAME: &str = "ovpn-client";

/// Arguments of `completions`.
#[derive(Clone, Debug, clap::Args)]
pub struct CompletionsArgs {
    /// Which shell
    #[arg(value_enum)]
    shell: Shell,
}

/// Writes the completions of this command to standard output.
pub(super) fn run(args: &CompletionsArgs, command: &Command) -> ExitCode {
    match std::io::stdout().write_all(&script(args.shell, command)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => complain(&format!("standard output: {error}"), EXIT_FAILED),
    }
}

fn script(shell: Shell, command: &Command) -> Vec<u8> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut shown(command), NAME, &mut script);
    if shell == Shell::Bash {
        // clap calls a command with a hyphen in two ways, so that nothing below it is completed
        // (clap-rs/clap#6421).
        script = String::from_utf8_lossy(&script)
            .replace("ovpn__subcmd__client", "ovpn__client")
            .into_bytes();
    }
    script
}

/// The command without what nobody types: clap completes hidden commands too.
fn shown(command: &Command) -> Command {
    Command::new(NAME)
        .version(env!("CARGO_PKG_VERSION"))
        .args(command.get_arguments())
        .subcommands(command.get_subcommands().filter(|command| !command.is_hide_set()))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use clap::CommandFactory as _;

    use super::super::Cli;
    use super::*;

    #[test]
    fn every_shown_command_and_option_is_completed_and_no_hidden_one() {
        let command = Cli::command();
        for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
            let script = String::from_utf8(script(shell, &command)).unwrap();
            let words: Vec<&str> =
                script.split(|c: char| !c.is_ascii_alphanumeric() && c != '-').collect();
            for command in command.get_subcommands() {
                let (name, hidden) = (command.get_name(), command.is_hide_set());
                // In the others a hidden command's name may be a word of a description.
                if !hidden || shell == Shell::Bash {
                    assert_eq!(words.contains(&name), !hidden, "{shell}: {name}");
                }
                if !hidden && shell == Shell::Bash {
                    let options = format!("ovpn__client__subcmd__{name})");
                    assert!(script.contains(&options), "options of {name}");
                }
            }
            for option in ["auth-user-pass", "textfile", "runtime-dir"] {
                let named = words.iter().any(|word| word.trim_start_matches('-') == option);
                assert!(named, "{shell}: {option}");
            }
        }
    }
}
