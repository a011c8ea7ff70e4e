//! `dpc settle`: ends or keeps a lease by its token, for scripts.

use std::str::FromStr;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use dpc_proto::v1;
use dpc_proto::v1::settlement::Verb;
use serde::Serialize;

use crate::cli::connect::{Effect, Node, NodeArgs, of_refused};
use crate::cli::exit::Exit;
use crate::cli::failure::Failure;
use crate::cli::output::Output;
use crate::cli::show::time;
use crate::config::Period;

/// The reason of a rejection that gave none.
const REASON_DEFAULT: &str = "rejected with dpc settle";

/// Ends or keeps a lease.
#[derive(Debug, clap::Args)]
pub(crate) struct SettleArgs {
    // One in 64 begins with a hyphen.
    /// The lease's token, from a delivery line.
    #[arg(value_name = "TOKEN", allow_hyphen_values = true)]
    token: Token,
    /// What to do.
    #[arg(value_name = "VERB")]
    verb: VerbArg,
    /// release: not before this time has passed.
    #[arg(long, value_name = "D")]
    delay: Option<Period>,
    /// release: the object is to blame; it counts to the limit of failed deliveries.
    #[arg(long)]
    failed: bool,
    /// reject: why, for people.
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
    #[command(flatten)]
    node: NodeArgs,
}

/// How to end a lease, or to keep it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum VerbArg {
    /// The object is done for good.
    #[value(alias = "finalize")]
    Finalise,
    /// The object goes on, to other processors.
    Advance,
    /// The object goes back to its place.
    Release,
    /// The object is parked.
    Reject,
    /// The lease runs for its full time again.
    Extend,
}

impl VerbArg {
    fn name(self) -> &'static str {
        match self {
            Self::Finalise => "finalise",
            Self::Advance => "advance",
            Self::Release => "release",
            Self::Reject => "reject",
            Self::Extend => "extend",
        }
    }

    fn done(self) -> &'static str {
        match self {
            Self::Finalise => "finalised",
            Self::Advance => "advanced",
            Self::Release => "released",
            Self::Reject => "rejected",
            Self::Extend => "extended",
        }
    }
}

/// The full token of a lease: base64url without padding.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Token(pub(crate) Vec<u8>);

impl FromStr for Token {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        URL_SAFE_NO_PAD
            .decode(text)
            .map(Self)
            .map_err(|_| "accepted: the lease.token of a delivery line".to_owned())
    }
}

impl std::fmt::Display for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&URL_SAFE_NO_PAD.encode(&self.0))
    }
}

#[derive(Serialize)]
struct ShownSettle {
    token: String,
    verb: &'static str,
    status: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    until: Option<String>,
}

pub(crate) async fn run(args: SettleArgs, output: &mut Output) -> Result<Exit, Failure> {
    let verb = args.verb;
    let settlement = settlement(&args)?;
    let node = args.node.connect().await?;
    let until = match settlement {
        Some(settlement) => {
            let request = v1::SettleRequest { settlement: Some(settlement) };
            let answer = node.answer(Effect::Changes, node.cloud().settle(request)).await?;
            answer.refused.first().map_or(Ok(None), |refused| Err(of_refused(refused)))?
        }
        None => extend(&node, &args.token).await?,
    };
    let shown = ShownSettle {
        token: args.token.to_string(),
        verb: verb.name(),
        status: verb.done(),
        until,
    };
    if output.is_json() {
        output.json(&shown)?;
    } else {
        let until = shown.until.map(|until| format!(" until {until}")).unwrap_or_default();
        output.text(&format!("{}{until}", shown.status))?;
    }
    Ok(Exit::Done)
}

async fn extend(node: &Node, token: &Token) -> Result<Option<String>, Failure> {
    let extend = v1::Extend { tokens: vec![token.0.clone().into()], ..v1::Extend::default() };
    let request = v1::ExtendRequest { extend: Some(extend) };
    let answer = node.answer(Effect::Changes, node.cloud().extend(request)).await?;
    match answer.refused.first() {
        Some(refused) => Err(of_refused(refused)),
        None => Ok(answer.until.and_then(time)),
    }
}

/// The settlement that the arguments ask for; nothing for an extension.
fn settlement(args: &SettleArgs) -> Result<Option<v1::Settlement>, Failure> {
    let only = |given: bool, flag: &str, verb: VerbArg| {
        if given && args.verb != verb {
            let message = format!("{flag} goes with {} only", verb.name());
            return Err(Failure::usage(message).field(flag).given(args.verb.name()));
        }
        Ok(())
    };
    only(args.delay.is_some(), "--delay", VerbArg::Release)?;
    only(args.failed, "--failed", VerbArg::Release)?;
    only(args.reason.is_some(), "--reason", VerbArg::Reject)?;
    let verb = match args.verb {
        VerbArg::Extend => return Ok(None),
        VerbArg::Finalise => Verb::Finalise(v1::Finalise {}),
        VerbArg::Advance => Verb::Advance(v1::Advance::default()),
        VerbArg::Release => Verb::Release(v1::Release {
            delay: args.delay.map(|delay| delay.0.into()),
            failed: args.failed,
        }),
        VerbArg::Reject => {
            let reason = args.reason.clone().unwrap_or_else(|| REASON_DEFAULT.to_owned());
            Verb::Reject(v1::Reject { reason })
        }
    };
    let tokens = vec![args.token.0.clone().into()];
    Ok(Some(v1::Settlement { tokens, verb: Some(verb), ..v1::Settlement::default() }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(verb: VerbArg) -> SettleArgs {
        SettleArgs {
            token: "AAH_".parse().expect("a token"),
            verb,
            delay: None,
            failed: false,
            reason: None,
            node: NodeArgs { nodes: Vec::new() },
        }
    }

    #[test]
    fn tokens_are_base64url_without_padding() {
        let token: Token = "AAH_".parse().expect("a token");
        assert_eq!(token.0, [0, 1, 0xff]);
        assert_eq!(token.to_string(), "AAH_");
        for bad in ["AAH/", "AA==", "?"] {
            assert!(bad.parse::<Token>().is_err(), "{bad}");
        }
    }

    #[test]
    fn flags_go_with_their_verbs() {
        let delay = Some(Period::secs(5));
        let release = SettleArgs { delay, failed: true, ..args(VerbArg::Release) };
        let built = settlement(&release).expect("good").expect("a settlement");
        let expected = v1::Release { delay: delay.map(|d| d.0.into()), failed: true };
        assert_eq!(built.verb, Some(Verb::Release(expected)));
        assert_eq!(built.tokens.len(), 1);
        assert_eq!(settlement(&args(VerbArg::Extend)), Ok(None));
        let wrong = [
            SettleArgs { delay, ..args(VerbArg::Finalise) },
            SettleArgs { failed: true, ..args(VerbArg::Reject) },
            SettleArgs { reason: Some("r".into()), ..args(VerbArg::Release) },
        ];
        for args in wrong {
            assert_eq!(settlement(&args).expect_err("wrong flag").exit, Exit::Usage);
        }
    }
}
