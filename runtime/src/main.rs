//! The binary `dpc`; everything is in the library, so that tests reach it.

use std::process::ExitCode;

mod allocator;

use allocator::Allocator;

#[global_allocator]
static ALLOCATOR: Allocator = Allocator;

fn main() -> ExitCode {
    runtime::cli::main()
}
