//! Holds `fields.md` against the protos: no field of CRI is forgotten.
use protobuf::descriptor::DescriptorProto;
use std::collections::BTreeMap;

const TABLE: &str = include_str!("fields.md");

/// Cells of the table's rows.
fn rows() -> Vec<Vec<&'static str>> {
    TABLE.lines().filter(|l| l.starts_with("| `")).map(|l| l.trim_matches('|').split(" | ").map(str::trim).collect()).collect()
}

/// Words in backticks.
fn names(cell: &str) -> Vec<&str> {
    cell.split('`').skip(1).step_by(2).collect()
}

#[test]
fn every_field_is_named_in_the_row_of_its_message() {
    let dir = concat!(env!("CARGO_MANIFEST_DIR"), "/protos/cri");
    let parsed = protobuf_parse::Parser::new().pure().include(dir).input(format!("{dir}/v1.proto")).parse_and_typecheck().unwrap();
    let file = &parsed.file_descriptors[0];
    let rows = rows();
    // A call has three cells, a message two; some calls have the name of a message.
    let row = |name: &str, cells: usize| rows.iter().find(|row| row.len() == cells && names(row[0]).contains(&name));
    // Requests and answers are cells of their call's row.
    let mut of_calls: BTreeMap<&str, (&str, usize)> = BTreeMap::new();
    for method in file.service.iter().flat_map(|s| &s.method) {
        for (message, cell) in [(method.input_type(), 1), (method.output_type(), 2)] {
            of_calls.insert(message.rsplit('.').next().unwrap(), (method.name(), cell));
        }
    }
    let missing = |message: &DescriptorProto| -> Vec<String> {
        let found = match of_calls.get(message.name()) {
            Some((call, cell)) => row(call, 3).map(|row| row[*cell]),
            None => row(message.name(), 2).map(|row| row[1]),
        };
        let Some(cell) = found else { return vec![format!("{}: no row", message.name())] };
        let named = names(cell);
        message.field.iter().filter(|f| !named.contains(&f.name())).map(|f| format!("{}.{}", message.name(), f.name())).collect()
    };
    let entries = |m: &&DescriptorProto| !m.options.map_entry();
    let all: Vec<String> = file.message_type.iter().filter(entries).flat_map(missing).collect();
    assert!(all.is_empty(), "fields.md does not say what becomes of: {}", all.join(", "));
}
