//! Batches: a list's answer as a stream of messages of bounded size, so that no list is too long for one message.
use crate::call::Call;
use crate::error::Result;
use protobuf::Message;

/// Bytes of items in one message. The kubelet takes 16 MiB; a small part of it keeps what waits for a slow reader small.
const MAX_BYTES: u64 = 1 << 20;
/// Items in one message.
const MAX_ITEMS: usize = 1000;

/// Takes the stream's next message; blocks while the client does not read.
pub type Send<'a, P> = &'a mut dyn FnMut(P) -> Result<()>;

/// Sends all items, at least one a message; an item larger than the bound goes alone. Without items there is no message.
pub fn batches<T: Message, P>(call: &Call, items: impl Iterator<Item = T>, send: Send<'_, P>, wrap: impl Fn(Vec<T>) -> P) -> Result<()> {
    let (mut batch, mut bytes) = (vec![], 0);
    for item in items {
        call.check()?;
        let size = item.compute_size();
        if !batch.is_empty() && (bytes + size > MAX_BYTES || batch.len() == MAX_ITEMS) {
            send(wrap(std::mem::take(&mut batch)))?;
            bytes = 0;
        }
        bytes += size;
        batch.push(item);
    }
    if batch.is_empty() { Ok(()) } else { send(wrap(batch)) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::cri::ImageSpec;

    fn sent(items: Vec<ImageSpec>) -> Vec<Vec<ImageSpec>> {
        let mut sent = vec![];
        let mut send = |batch| {
            sent.push(batch);
            Ok(())
        };
        batches(&Call::background("test"), items.into_iter(), &mut send, |batch| batch).unwrap();
        sent
    }

    fn item(bytes: usize) -> ImageSpec {
        ImageSpec { image: "x".repeat(bytes), ..ImageSpec::default() }
    }

    #[test]
    fn messages_are_bounded_by_count_and_by_bytes_and_never_empty() {
        assert!(sent(vec![]).is_empty());
        let many: Vec<usize> = sent((0..2001).map(|_| item(1)).collect()).iter().map(Vec::len).collect();
        assert_eq!(many, [1000, 1000, 1]);
        let big: Vec<usize> = sent([10, 900_000, 900_000, 3_000_000, 10].map(item).into()).iter().map(Vec::len).collect();
        assert_eq!(big, [2, 1, 1, 1]);
    }

    #[test]
    fn a_client_that_leaves_ends_the_stream() {
        let (call, alive) = Call::new("k8s.io", "test", None);
        drop(alive);
        let mut send = |_: Vec<ImageSpec>| panic!("sent to nobody");
        assert!(batches(&call, [item(1)].into_iter(), &mut send, |batch| batch).is_err());
    }
}
