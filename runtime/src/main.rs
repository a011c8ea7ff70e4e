//! The binary `dpc`; everything is in the library, so that tests reach it.

use std::process::ExitCode;

fn main() -> ExitCode {
    runtime::cli::main()
}
