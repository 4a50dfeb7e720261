//! The memtier binary: everything is in the library.

fn main() -> std::process::ExitCode {
    memtier::cli::main()
}
