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
    use crate::proto::cri::{Image, ImageSpec, StreamImagesRequest, StreamImagesResponse};
    use crate::proto::cri_methods::image_service::STREAM_IMAGES;
    use crate::rpc::grpc::{Client, Out, Routes, Server};
    use crate::thread::Pool;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Duration;

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

    /// A server whose StreamImages answers with `items`, and a client of it; `sent` counts the messages.
    fn served(name: &str, items: Vec<Image>) -> (Server, Client, Pool, Arc<AtomicUsize>) {
        let socket = std::env::temp_dir().join(format!("cradle-batches-{name}-{}.sock", std::process::id()));
        let _ = std::fs::remove_file(&socket);
        let (lane, sent) = (Pool::new("t-stream", 4).unwrap(), Arc::new(AtomicUsize::new(0)));
        let count = sent.clone();
        let handler = move |call: &Call, _: StreamImagesRequest, out: &mut Out<StreamImagesResponse>| {
            let mut send = |message| {
                out.send(message)?;
                count.fetch_add(1, Ordering::SeqCst);
                Ok(())
            };
            let wrap = |images| StreamImagesResponse { images, ..StreamImagesResponse::default() };
            batches(call, items.clone().into_iter(), &mut send, wrap)
        };
        let routes = Routes::new(Some("k8s.io")).stream(&STREAM_IMAGES, &lane, handler);
        let server = Server::listen(&socket, vec![routes.build()], 16 << 20, 16 << 20).unwrap();
        (server, Client::new(&socket, 16 << 20), lane, sent)
    }

    fn images(count: usize, bytes: usize) -> Vec<Image> {
        let image = |n: usize| Image { id: n.to_string(), username: "x".repeat(bytes), ..Image::default() };
        (0..count).map(image).collect()
    }

    #[test]
    fn two_thousand_records_come_in_order_once_each_and_then_the_end() {
        let (server, client, lane, sent) = served("all", images(2000, 1500));
        let stream = client.stream(&STREAM_IMAGES, &StreamImagesRequest::default(), Duration::from_secs(30)).unwrap();
        let ids: Vec<String> = stream.flat_map(|m| m.unwrap().images).map(|i| i.id).collect();
        assert_eq!(ids, (0..2000).map(|n| n.to_string()).collect::<Vec<_>>());
        assert_eq!(sent.load(Ordering::SeqCst), 3, "3 MB in messages of 1 MiB");
        server.close();
        lane.close();
    }

    #[test]
    fn a_client_that_does_not_read_holds_little() {
        let (server, client, lane, sent) = served("slow", images(64, 1 << 20));
        let mut stream = client.stream(&STREAM_IMAGES, &StreamImagesRequest::default(), Duration::from_secs(60)).unwrap();
        stream.next().unwrap().unwrap();
        std::thread::sleep(Duration::from_millis(500));
        let waiting = sent.load(Ordering::SeqCst);
        assert!(waiting < 20, "{waiting} messages of 64 were taken from the handler");
        assert_eq!(stream.count(), 63);
        server.close();
        lane.close();
    }

    #[test]
    fn a_client_that_leaves_ends_the_stream() {
        let (call, alive) = Call::new("k8s.io", "test", None);
        drop(alive);
        let mut send = |_: Vec<ImageSpec>| panic!("sent to nobody");
        assert!(batches(&call, [item(1)].into_iter(), &mut send, |batch| batch).is_err());
    }
}
