//! Generates message types, gRPC methods and TTRPC names from `protos/`, and compiles the built-in pause program. No protoc.
use protobuf::descriptor::FileDescriptorProto;
use protobuf_codegen::Customize;
use std::collections::HashMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

fn main() -> Result<()> {
    println!("cargo:rerun-if-changed=protos");
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-changed=src/sys/pause/main.rs");
    let out = PathBuf::from(env::var("OUT_DIR")?);
    pause(Path::new("src/sys/pause/main.rs"), &out.join("pause"))?;
    let inputs = stage(Path::new("protos"), &out.join("flat"))?;
    generate(&inputs, &out.join("flat"), &fresh(out.join("gen"))?)
}

/// A static program without a library, for the target that is being built.
fn pause(source: &Path, to: &Path) -> Result<()> {
    let mut rustc = Command::new(env::var("RUSTC")?);
    rustc.args(["--edition=2024", "--crate-name=pause", "--crate-type=bin", "-Cpanic=abort", "-Copt-level=s", "-Cstrip=symbols"]);
    rustc.args(["-Crelocation-model=static", "-Ctarget-feature=+crt-static"]);
    for arg in ["-nostartfiles", "-nostdlib", "-static", "-Wl,--build-id=none,-z,noseparate-code,-z,max-page-size=4096,-z,norelro"] {
        rustc.arg(format!("-Clink-arg={arg}"));
    }
    rustc.args(["--target", &env::var("TARGET")?]);
    if let Ok(linker) = env::var("RUSTC_LINKER") {
        rustc.arg(format!("-Clinker={linker}"));
    }
    let status = rustc.arg("-o").arg(to).arg(source).status()?;
    if !status.success() {
        return Err(format!("compile {} for the built-in pause program: {status}", source.display()).into());
    }
    Ok(())
}

fn fresh(dir: PathBuf) -> Result<PathBuf> {
    let _ = fs::remove_dir_all(&dir);
    fs::create_dir_all(&dir)?;
    Ok(dir)
}

/// Copies the tree flat, since rust-protobuf names a module by a file's base name: `shim/task_v2.proto` becomes `shim_task_v2.proto`.
fn stage(root: &Path, flat_dir: &Path) -> Result<Vec<PathBuf>> {
    fresh(flat_dir.to_path_buf())?;
    let mut files = vec![];
    walk(root, &mut files)?;
    files.sort();
    let mut staged = vec![];
    for file in &files {
        let mut text = String::new();
        for line in fs::read_to_string(file)?.lines() {
            match line.trim().strip_prefix("import \"").and_then(|rest| rest.split('"').next()) {
                Some(import) if !import.starts_with("google/protobuf/") => writeln!(text, "import \"{}\";", flat(import))?,
                _ => writeln!(text, "{line}")?,
            }
        }
        let to = flat_dir.join(flat(&file.strip_prefix(root)?.to_string_lossy()));
        fs::write(&to, text)?;
        staged.push(to);
    }
    Ok(staged)
}

fn walk(dir: &Path, out: &mut Vec<PathBuf>) -> Result<()> {
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        if path.is_dir() {
            walk(&path, out)?;
        } else if path.extension().is_some_and(|e| e == "proto") {
            out.push(path);
        }
    }
    Ok(())
}

fn flat(path: &str) -> String {
    path.replace(['/', '-'], "_")
}

fn generate(inputs: &[PathBuf], include: &Path, to: &Path) -> Result<()> {
    protobuf_codegen::Codegen::new()
        .pure()
        .includes([include])
        .inputs(inputs)
        .out_dir(to)
        .customize(Customize::default().lite_runtime(true))
        .run()?;
    let parsed = protobuf_parse::Parser::new().pure().includes([include]).inputs(inputs).parse_and_typecheck()?;
    let types = type_paths(&parsed.file_descriptors);
    let mut modules = fs::read_to_string(to.join("mod.rs"))?;
    for file in parsed.file_descriptors.iter().filter(|f| !f.service.is_empty()) {
        let module = file.name().trim_end_matches(".proto");
        let (suffix, text) =
            if module.starts_with("shim_") { ("ttrpc", ttrpc_names(file)?) } else { ("grpc", grpc_methods(file, &types)?) };
        fs::write(to.join(format!("{module}_{suffix}.rs")), text)?;
        writeln!(modules, "pub mod {module}_{suffix};")?;
    }
    fs::write(to.join("mod.rs"), modules)?;
    Ok(())
}

fn type_paths(files: &[FileDescriptorProto]) -> HashMap<String, String> {
    let mut types = HashMap::new();
    for file in files {
        let module = file.name().trim_end_matches(".proto");
        for message in &file.message_type {
            let path = match module.strip_prefix("google/protobuf/") {
                Some(known) => format!("::protobuf::well_known_types::{known}::{}", message.name()),
                None => format!("root::{module}::{}", message.name()),
            };
            types.insert(format!(".{}.{}", file.package(), message.name()), path);
        }
    }
    types
}

/// `pub const STATUS: grpcio::Method<Req, Resp>` in `pub mod runtime_service`: all that a server and a client need,
/// and `METHODS`, every path of the service, to check that none is forgotten.
fn grpc_methods(file: &FileDescriptorProto, types: &HashMap<String, String>) -> Result<String> {
    let mut text = String::new();
    for service in &file.service {
        writeln!(
            text,
            "/// Methods of {}.{}.\npub mod {} {{\n    use super::super as root;",
            file.package(),
            service.name(),
            snake(service.name())
        )?;
        let mut paths = String::new();
        for m in &service.method {
            let kind = match (m.client_streaming(), m.server_streaming()) {
                (false, false) => "Unary",
                (true, false) => "ClientStreaming",
                (false, true) => "ServerStreaming",
                (true, true) => "Duplex",
            };
            let (input, output) = (&types[m.input_type()], &types[m.output_type()]);
            let path = format!("/{}.{}/{}", file.package(), service.name(), m.name());
            let marshal = "::grpcio::Marshaller { ser: ::grpcio::pb_ser, de: ::grpcio::pb_de }";
            writeln!(
                text,
                "    /// {path}\n    pub const {}: ::grpcio::Method<{input}, {output}> = ::grpcio::Method {{ ty: ::grpcio::MethodType::{kind}, name: {path:?}, req_mar: {marshal}, resp_mar: {marshal} }};",
                snake(m.name()).to_uppercase()
            )?;
            write!(paths, "{path:?}, ")?;
        }
        writeln!(text, "    /// Every path of the service.\n    pub const METHODS: &[&str] = &[{paths}];\n}}")?;
    }
    Ok(text)
}

/// `SERVICE` and a constant a method, in `pub mod task`.
fn ttrpc_names(file: &FileDescriptorProto) -> Result<String> {
    let mut text = String::new();
    for service in &file.service {
        writeln!(text, "/// Names of {}.{}.\npub mod {} {{", file.package(), service.name(), snake(service.name()))?;
        writeln!(text, "    /// The service's full name.\n    pub const SERVICE: &str = \"{}.{}\";", file.package(), service.name())?;
        for m in &service.method {
            writeln!(text, "    /// Method {0}.\n    pub const {1}: &str = \"{0}\";", m.name(), snake(m.name()).to_uppercase())?;
        }
        text.push_str("}\n");
    }
    Ok(text)
}

fn snake(name: &str) -> String {
    let chars: Vec<char> = name.chars().collect();
    let mut out = String::new();
    for (i, c) in chars.iter().enumerate() {
        let starts_word = i > 0 && c.is_uppercase() && (chars[i - 1].is_lowercase() || chars.get(i + 1).is_some_and(|n| n.is_lowercase()));
        if starts_word {
            out.push('_');
        }
        out.push(c.to_ascii_lowercase());
    }
    out
}
