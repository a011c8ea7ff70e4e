//! `dpc config`: what the layers of the configuration add up to.

use std::path::PathBuf;

use serde::Serialize;

use super::serve::ConfigArgs;
use crate::cli::exit::Exit;
use crate::cli::failure::Failure;
use crate::cli::output::Output;
use crate::config::{FlagValue, Sources};

/// What to do with the configuration.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum ConfigCommand {
    /// Print the configuration that `dpc serve` with the same flags would run with.
    #[command(after_help = "Example:\n  dpc config show --origin --config dpc.toml")]
    Show(ShowArgs),
    /// Check a file and report everything that is wrong with it.
    #[command(after_help = "Example:\n  dpc config validate dpc.toml")]
    Validate(ValidateArgs),
}

/// Shows the configuration.
#[derive(Debug, clap::Args)]
pub(crate) struct ShowArgs {
    /// Say where each value came from.
    #[arg(long)]
    origin: bool,
    #[command(flatten)]
    config: ConfigArgs,
}

/// Checks a file.
#[derive(Debug, clap::Args)]
pub(crate) struct ValidateArgs {
    /// The file; no other layer is read.
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// Check it as `dpc serve --insecure` would.
    #[arg(long)]
    insecure: bool,
}

#[derive(Serialize)]
struct ShownCheck {
    file: String,
    valid: bool,
}

pub(crate) fn run(command: ConfigCommand, output: &mut Output) -> Result<Exit, Failure> {
    match command {
        ConfigCommand::Show(args) => show(&args, output),
        ConfigCommand::Validate(args) => validate(args, output),
    }
}

fn show(args: &ShowArgs, output: &mut Output) -> Result<Exit, Failure> {
    let loaded = match args.config.sources().load() {
        Ok(loaded) => loaded,
        Err(errors) => {
            let failures = Failure::of_config(errors, Exit::Usage);
            failures.iter().for_each(|failure| output.failure(failure));
            return Ok(Exit::Usage);
        }
    };
    if output.is_json() {
        loaded.shown(args.origin).iter().try_for_each(|key| output.json(key))?;
    } else {
        output.raw(loaded.to_toml(args.origin).as_bytes())?;
    }
    Ok(Exit::Done)
}

fn validate(args: ValidateArgs, output: &mut Output) -> Result<Exit, Failure> {
    let file = args.file.display().to_string();
    let insecure =
        FlagValue { flag: "--insecure", key: "listen.insecure", value: args.insecure.to_string() };
    let flags = if args.insecure { vec![insecure] } else { Vec::new() };
    let checked = Sources { file: Some(args.file), flags, ..Sources::default() }.load();
    let valid = checked.is_ok();
    if output.is_json() {
        output.json(&ShownCheck { file, valid })?;
    } else if valid {
        output.text(&format!("{file} is valid"))?;
    }
    match checked {
        Ok(_) => Ok(Exit::Done),
        Err(errors) => {
            let failures = Failure::of_config(errors, Exit::NotDone);
            failures.iter().for_each(|failure| output.failure(failure));
            Ok(Exit::NotDone)
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;
    use crate::cli::output::{Format, captured};

    fn check(text: &str, insecure: bool, format: Format) -> (Exit, String, String) {
        let mut file = tempfile::NamedTempFile::new().expect("a temporary file");
        file.write_all(text.as_bytes()).expect("written");
        let (mut output, out, err) = captured::output(format);
        let args = ValidateArgs { file: file.path().to_owned(), insecure };
        let exit = validate(args, &mut output).expect("written");
        let path = file.path().display().to_string();
        (exit, out.text().replace(&path, "F"), err.text().replace(&path, "F"))
    }

    #[test]
    fn a_good_file_is_valid() {
        let good = "node_name = \"a\"\n[limits]\nmax_hops = 4\n";
        assert_eq!(
            check(good, false, Format::Text),
            (Exit::Done, "F is valid\n".into(), "".into())
        );
        let line = "{\"file\":\"F\",\"valid\":true}\n";
        assert_eq!(check(good, false, Format::Json), (Exit::Done, line.into(), "".into()));
    }

    #[test]
    fn every_error_of_a_bad_file_is_reported() {
        let bad = "[limits]\nmax_hops = 0\nmax_hop = 1\n";
        let (exit, out, err) = check(bad, false, Format::Text);
        assert_eq!((exit, out.as_str()), (Exit::NotDone, ""));
        assert_eq!(
            err,
            "error: limits.max_hops: 0 is out of range (F:2); the limit is 1 to 64 \
             [CONFIG_OUT_OF_RANGE]\n\
             error: unknown key limits.max_hop (F:3): the nearest known one is limits.max_hops \
             [CONFIG_UNKNOWN_KEY]\n"
        );
        let (_, out, err) = check(bad, false, Format::Json);
        assert_eq!(out, "{\"file\":\"F\",\"valid\":false}\n");
        assert!(
            err.contains(r#""field":"limits.max_hops","limit":"1 to 64","given":"0"}"#),
            "{err}"
        );
    }

    #[test]
    fn a_listener_beyond_loopback_takes_consent() {
        let open = "[listen]\nclients = \"0.0.0.0:50051\"\n";
        let (exit, _, err) = check(open, false, Format::Text);
        assert_eq!(exit, Exit::NotDone);
        assert!(err.contains("--insecure") && err.contains("TLS is not built yet"), "{err}");
        assert_eq!(check(open, true, Format::Text).0, Exit::Done);
    }
}
