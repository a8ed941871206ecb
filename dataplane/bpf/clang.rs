// How C becomes BPF. Included by the build scripts that have some to compile; names are theirs to
// import: std::{env, path::Path, process::Command}.

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

/// What the kernel calls an architecture.
fn kernel_arch(arch: &str) -> &str {
    match arch {
        "x86_64" => "x86",
        "aarch64" => "arm64",
        "riscv64" => "riscv",
        "powerpc64" => "powerpc",
        "s390x" => "s390",
        other => other,
    }
}

/// Runs `$CLANG` (default `clang`) with target bpf.
fn compile(program: &str, arguments: &[&str], object: &Path) -> Result<()> {
    let clang = env::var("CLANG").unwrap_or_else(|_| "clang".into());
    // <asm/types.h> lives in a directory of its own on multiarch distributions,
    // and clang does not look there when it compiles for another target.
    let arch = env::var("CARGO_CFG_TARGET_ARCH")?;
    let endian = env::var("CARGO_CFG_TARGET_ENDIAN")?;
    let target = if endian == "big" { "bpfeb" } else { "bpfel" };
    let status = Command::new(&clang)
        // v3: compare-and-exchange, in every kernel from 5.12 on.
        .args(["-O2", "-g", "-Wall", "-Werror", "-target", target, "-mcpu=v3"])
        .arg(format!("-D__TARGET_ARCH_{}", kernel_arch(&arch)))
        .arg(format!("-I/usr/include/{arch}-linux-gnu"))
        .args(arguments)
        .args(["-c", program, "-o"])
        .arg(object)
        .status()
        .map_err(|e| format!("cannot run {clang}: {e}; install clang or set CLANG"))?;
    if !status.success() {
        return Err(format!(
            "{clang} could not compile {program}; it needs the headers of libbpf-dev and gcc-multilib"
        )
        .into());
    }
    Ok(())
}
