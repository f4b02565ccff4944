//! Arguments -> command -> exit code.

fn main() -> std::process::ExitCode {
    failoverd::cli::main()
}
