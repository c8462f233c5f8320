//! Message: a protobuf message inside a JSON record, as base64 of its wire form, so that fields we do not know survive.
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use protobuf::Message;
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serializer};

/// Serializes a message.
pub fn serialize<M: Message, S: Serializer>(message: &M, to: S) -> Result<S::Ok, S::Error> {
    let bytes = message.write_to_bytes().map_err(serde::ser::Error::custom)?;
    to.serialize_str(&STANDARD.encode(bytes))
}

/// Reads it back.
pub fn deserialize<'de, M: Message, D: Deserializer<'de>>(from: D) -> Result<M, D::Error> {
    let text = String::deserialize(from)?;
    let bytes = STANDARD.decode(text).map_err(D::Error::custom)?;
    M::parse_from_bytes(&bytes).map_err(D::Error::custom)
}
