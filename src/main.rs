//! The program `copyhold`: everything is in the library.

use std::process::ExitCode;

/// The system's allocator keeps one arena per thread, and with many parts in flight the resident size grows to
/// several times what is in use.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    copyhold::cli::main()
}
