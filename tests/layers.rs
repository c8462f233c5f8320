//! The house rules: which room may import which, where `unsafe`, threads and the RPC libraries may be, and the size of files.
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// Rooms and what each may import beside itself and the ground floor. `server` and `cli` know all.
const UPPER: &[(&str, &[&str])] = &[
    ("sys", &[]),
    ("core", &["sys"]),
    ("shim", &["sys"]),
    ("remote", &["core", "sys"]),
    ("cni", &["core", "sys"]),
    ("cri", &["remote", "cni", "core", "sys"]),
    ("services", &["remote", "cni", "core", "sys"]),
    ("nri", &["remote", "cni", "core", "sys"]),
    ("server", &["cri", "services", "nri", "remote", "cni", "core", "sys"]),
    ("cli", &["server", "cri", "services", "nri", "remote", "cni", "core", "sys"]),
    ("main", &["cli"]),
    ("bin", &["shim", "sys"]),
];
/// The ground floor: each imports only those left of it, or `sys`.
const GROUND: &[&str] = &["error", "call", "thread", "undo", "failpoint", "proto", "config", "plugin", "rpc"];
/// Ground that the shim has no use for: it would grow by it.
const NOT_FOR_SHIM: &[&str] = &["config", "plugin"];
/// Longest file.
const MAX_LINES: usize = 700;

struct File {
    /// Below `src/`.
    path: PathBuf,
    room: String,
    text: String,
    /// Without comments and tests; empty for files of tests.
    code: String,
}

fn files() -> Vec<File> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut found = vec![];
    let mut dirs = vec![root.clone()];
    while let Some(dir) = dirs.pop() {
        for entry in std::fs::read_dir(dir).unwrap().map(Result::unwrap) {
            let path = entry.path();
            if path.is_dir() {
                dirs.push(path);
            } else if path.extension().is_some_and(|e| e == "rs") {
                found.push(read(&root, &path));
            }
        }
    }
    assert!(found.len() > 100, "src/ was not found");
    found
}

fn read(root: &Path, path: &Path) -> File {
    let path_below = path.strip_prefix(root).unwrap().to_path_buf();
    let first = path_below.components().next().unwrap().as_os_str().to_str().unwrap();
    let text = std::fs::read_to_string(path).unwrap();
    let code = if for_tests(path) { String::new() } else { without_tests(&text) };
    File { room: first.trim_end_matches(".rs").into(), path: path_below, text, code }
}

/// Whether the parent module declares the file, or the folder that it is in, under `#[cfg(test)]`.
fn for_tests(path: &Path) -> bool {
    let mut path = path.to_path_buf();
    loop {
        let (dir, stem) = (path.parent().unwrap().to_path_buf(), path.file_stem().unwrap().to_str().unwrap().to_string());
        let (dir, stem) = if stem == "mod" {
            (dir.parent().unwrap().to_path_buf(), dir.file_name().unwrap().to_str().unwrap().to_string())
        } else {
            (dir, stem)
        };
        let parents = [dir.join("mod.rs"), dir.with_extension("rs"), dir.join("lib.rs")];
        let Some(parent) = parents.iter().find(|p| p.exists() && **p != path) else { return false };
        let declared = std::fs::read_to_string(parent).unwrap();
        let lines: Vec<&str> = declared.lines().map(str::trim).collect();
        let name = format!("mod {stem};");
        if lines.windows(2).any(|w| w[0].starts_with("#[cfg(test)]") && w[1].ends_with(&name)) {
            return true;
        }
        if parent.ends_with("lib.rs") {
            return false;
        }
        path = parent.clone();
    }
}

/// Without comments and without each item that `#[cfg(test)]` marks; rustfmt's indentation tells where an item ends.
fn without_tests(text: &str) -> String {
    let mut code = String::new();
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        if line.trim_start().starts_with("#[cfg(test)]") {
            let end = format!("{}}}", &line[..line.len() - line.trim_start().len()]);
            let mut attributes = lines.by_ref().skip_while(|l| l.trim_start().starts_with('#'));
            if attributes.next().is_some_and(|item| !item.ends_with(';') && !item.ends_with('}')) {
                let _ = lines.by_ref().find(|l| **l == end);
            }
        } else if !line.trim_start().starts_with("//") {
            code.push_str(line);
            code.push('\n');
        }
    }
    code
}

/// Rooms named by `crate::…` or `cradle::…`, in `use` lines or in place.
fn imports(code: &str) -> BTreeSet<String> {
    let mut rooms = BTreeSet::new();
    for prefix in ["crate::", "cradle::"] {
        for (at, _) in code.match_indices(prefix) {
            if code[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_') {
                continue;
            }
            let rest = &code[at + prefix.len()..];
            let group = rest.strip_prefix('{').map(|g| g.split_once("};").map_or(g, |(inside, _)| inside));
            let names = group.map_or_else(|| vec![rest], top_level);
            rooms.extend(names.into_iter().map(first_word).filter(|w| !w.is_empty()));
        }
    }
    rooms
}

/// `a::{b, c}, d` is `a::{b, c}` and `d`.
fn top_level(group: &str) -> Vec<&str> {
    let (mut depth, mut begin, mut parts) = (0, 0, vec![]);
    for (at, c) in group.char_indices() {
        match c {
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 0 => {
                parts.push(&group[begin..at]);
                begin = at + 1;
            }
            _ => {}
        }
    }
    parts.push(&group[begin..]);
    parts
}

fn first_word(text: &str) -> String {
    text.trim_start().chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect()
}

/// Why `room` may not import `other`, if it may not.
fn forbidden(room: &str, other: &str) -> bool {
    if room == other || room == "lib" {
        return false;
    }
    if let Some(own) = GROUND.iter().position(|g| *g == room) {
        return other != "sys" && GROUND.iter().position(|g| *g == other).is_none_or(|at| at >= own);
    }
    let Some((_, may)) = UPPER.iter().find(|(name, _)| *name == room) else { return true };
    if matches!(room, "shim" | "bin") && NOT_FOR_SHIM.contains(&other) {
        return true;
    }
    let ground = GROUND.contains(&other);
    // sys is below the ground floor's upper half.
    let ground = ground && !(room == "sys" && matches!(other, "config" | "plugin" | "rpc"));
    !ground && !may.contains(&other)
}

fn complain(rule: &str, wrong: &[String]) {
    assert!(wrong.is_empty(), "{rule}:\n  {}", wrong.join("\n  "));
}

/// Lines of code that hold `needle` as a word, in the files that `guilty` picks.
fn lines_with(needle: &str, guilty: impl Fn(&File) -> bool) -> Vec<String> {
    let mut found = vec![];
    for file in files().iter().filter(|f| guilty(f)) {
        for line in file.code.lines().filter(|l| has_word(l, needle)) {
            found.push(format!("src/{}: {}", file.path.display(), line.trim()));
        }
    }
    found
}

fn has_word(line: &str, needle: &str) -> bool {
    let line = line.split(" // ").next().unwrap_or(line);
    line.match_indices(needle).any(|(at, _)| {
        let part = |c: char| c.is_alphanumeric() || c == '_';
        let goes_on_left = needle.starts_with(part) && line[..at].ends_with(part);
        let goes_on_right = needle.ends_with(part) && line[at + needle.len()..].starts_with(part);
        !goes_on_left && !goes_on_right
    })
}

#[test]
fn imports_point_down() {
    let mut wrong = vec![];
    for file in files() {
        let all = imports(&file.code);
        let rooms = all.iter().filter(|o| UPPER.iter().any(|(n, _)| n == o) || GROUND.contains(&o.as_str()));
        wrong.extend(rooms.filter(|o| forbidden(&file.room, o)).map(|o| format!("src/{} imports {o}", file.path.display())));
    }
    complain("arrows that design.md 2.3 forbids", &wrong);
}

#[test]
fn every_room_has_its_place_in_the_layers() {
    let known = |room: &str| room == "lib" || GROUND.contains(&room) || UPPER.iter().any(|(n, _)| *n == room);
    let wrong: BTreeSet<String> = files().iter().map(|f| f.room.clone()).filter(|r| !known(r)).collect();
    complain("rooms that tests/layers.rs does not know", &wrong.into_iter().collect::<Vec<_>>());
}

#[test]
fn the_shim_never_meets_grpc() {
    let shim = |f: &File| matches!(f.room.as_str(), "shim" | "bin");
    complain(
        "grpc in the shim",
        &[lines_with("rpc::grpc", shim), lines_with("cri", |f| shim(f) && f.text.contains("proto::cri"))].concat(),
    );
}

#[test]
fn core_names_no_cri_type() {
    complain("CRI types in core", &lines_with("proto::cri", |f| f.room == "core" || f.room == "sys"));
}

#[test]
fn unsafe_is_in_sys_alone_and_says_why() {
    complain("unsafe outside src/sys", &lines_with("unsafe", |f| f.room != "sys" && !f.path.ends_with("proto.rs")));
    let mut wrong = vec![];
    for file in files().iter().filter(|f| f.room == "sys") {
        let lines: Vec<&str> = file.text.lines().collect();
        for (at, line) in lines.iter().enumerate() {
            let code = line.split("//").next().unwrap_or_default();
            if has_word(code, "unsafe") && !code.contains("unsafe_code") && !explained(&lines[..=at]) {
                wrong.push(format!("src/{}:{}: {}", file.path.display(), at + 1, line.trim()));
            }
        }
    }
    complain("unsafe without a SAFETY line", &wrong);
}

/// Whether a SAFETY comment stands in the last lines.
fn explained(lines: &[&str]) -> bool {
    lines.iter().rev().take(8).any(|l| l.contains("SAFETY:") || l.contains("# Safety"))
}

#[test]
fn only_thread_rs_spawns() {
    let other = |f: &File| f.room != "thread" && !f.path.starts_with("sys/pause");
    let words = ["thread::spawn", "thread::Builder", "thread::scope"];
    complain("threads outside thread.rs", &words.map(|w| lines_with(w, other)).concat());
}

#[test]
fn rpc_libraries_stay_in_rpc() {
    // Listeners and the service tables pass a built table of calls on; they know its type and no more.
    let table = |l: &String| l.contains("grpcio::Service");
    let grpc = lines_with("grpcio", |f| f.room != "rpc" && f.room != "proto").into_iter().filter(|l| !table(l));
    let ttrpc = lines_with("ttrpc::", |f| f.room != "rpc" && f.room != "proto").into_iter().filter(|l| !l.contains("rpc::ttrpc"));
    let ttrpc = ttrpc.filter(|l| l.contains("use ttrpc") || l.contains("::ttrpc::r#"));
    complain("RPC libraries outside rpc", &grpc.chain(ttrpc).collect::<Vec<_>>());
}

#[test]
fn nothing_is_unwrapped_but_in_tests() {
    complain("unwrap or expect outside tests", &[lines_with(".unwrap()", |_| true), lines_with(".expect(", |_| true)].concat());
}

#[test]
fn every_file_begins_with_its_promise() {
    let silent: Vec<String> = files().iter().filter(|f| !f.text.starts_with("//! ")).map(|f| format!("src/{}", f.path.display())).collect();
    complain("files without a //! line at their head", &silent);
}

#[test]
fn no_file_is_too_long() {
    let long = files().into_iter().filter(|f| f.text.lines().count() > MAX_LINES);
    complain("files that want to be two", &long.map(|f| format!("src/{}", f.path.display())).collect::<Vec<_>>());
}

#[test]
fn nothing_is_left_for_later() {
    complain("left for later", &["TODO", "FIXME", "XXX", "todo!", "unimplemented!"].map(|w| lines_with(w, |_| true)).concat());
}
