//! The program `jumplens`.

#[global_allocator]
static ALLOCATOR: jumplens_cli::Allocator = jumplens_cli::Allocator;

fn main() -> std::process::ExitCode {
    jumplens_cli::main(std::env::args_os())
}
