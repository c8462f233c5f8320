//! CRI messages from the JSON that crictl reads: field names of the proto, enums as numbers, bytes as text. The messages that the
//! daemon is built with have no reflection, so the way is over dynamic ones, made from the proto itself.
use protobuf::Message;
use protobuf::reflect::{FileDescriptor, MessageDescriptor, ReflectValueBox, RuntimeFieldType, RuntimeType};
use serde_json::Value;
use std::path::Path;
use std::sync::OnceLock;

/// A message of CRI v1 by its name. A field that it does not have is an error.
pub fn message<M: Message>(name: &str, value: &Value) -> M {
    let descriptor = cri().message_by_full_name(&format!(".runtime.v1.{name}"));
    let dynamic = filled(&descriptor.unwrap_or_else(|| panic!("CRI has no message {name}")), value);
    M::parse_from_bytes(&dynamic.write_to_bytes_dyn().unwrap()).unwrap()
}

fn cri() -> &'static FileDescriptor {
    static CRI: OnceLock<FileDescriptor> = OnceLock::new();
    CRI.get_or_init(|| {
        let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("protos/cri");
        let parsed = protobuf_parse::Parser::new().pure().include(&dir).input(dir.join("v1.proto")).parse_and_typecheck().unwrap();
        let file = parsed.file_descriptors.into_iter().next().unwrap();
        FileDescriptor::new_dynamic(file, &[]).unwrap()
    })
}

fn filled(descriptor: &MessageDescriptor, value: &Value) -> Box<dyn protobuf::MessageDyn> {
    let mut message = descriptor.new_instance();
    for (key, value) in value.as_object().unwrap_or_else(|| panic!("{}: {value} is no object", descriptor.name())) {
        let field = descriptor.field_by_name(key).unwrap_or_else(|| panic!("{} has no field {key}", descriptor.name()));
        match field.runtime_field_type() {
            RuntimeFieldType::Singular(kind) => field.set_singular_field(&mut *message, one(&kind, value)),
            RuntimeFieldType::Repeated(kind) => {
                let mut list = field.mut_repeated(&mut *message);
                value.as_array().unwrap_or_else(|| panic!("{key}: no list")).iter().for_each(|v| list.push(one(&kind, v)));
            }
            RuntimeFieldType::Map(key_kind, kind) => {
                let mut map = field.mut_map(&mut *message);
                for (k, v) in value.as_object().unwrap_or_else(|| panic!("{key}: no object")) {
                    map.insert(one(&key_kind, &Value::from(k.as_str())), one(&kind, v));
                }
            }
        }
    }
    message
}

fn one(kind: &RuntimeType, value: &Value) -> ReflectValueBox {
    let whole = || value.as_i64().unwrap_or_else(|| panic!("{value}: no whole number"));
    let text = || value.as_str().unwrap_or_else(|| panic!("{value}: no text"));
    match kind {
        RuntimeType::I32 => ReflectValueBox::I32(whole().try_into().unwrap()),
        RuntimeType::U32 => ReflectValueBox::U32(whole().try_into().unwrap()),
        RuntimeType::I64 => ReflectValueBox::I64(whole()),
        RuntimeType::U64 => ReflectValueBox::U64(whole().try_into().unwrap()),
        RuntimeType::Bool => ReflectValueBox::Bool(value.as_bool().unwrap_or_else(|| panic!("{value}: neither true nor false"))),
        RuntimeType::String => ReflectValueBox::String(text().into()),
        RuntimeType::VecU8 => ReflectValueBox::Bytes(text().into()),
        RuntimeType::Enum(kind) => ReflectValueBox::Enum(kind.clone(), whole().try_into().unwrap()),
        RuntimeType::Message(kind) => ReflectValueBox::Message(filled(kind, value)),
        other => panic!("CRI has no fields of type {other}"),
    }
}
