//! ImageFsInfo: what images and containers take, from sizes that the snapshots syncer keeps. Answers at once, as the kubelet
//! uses it to see whether the connection stands.
//!
//! A snapshotter's directory holds layers of images and of containers, and where its file system holds the blobs too, both
//! lists tell its whole use, as the kubelet expects of a node with one disk. Where the blobs are on another file system, the
//! images' list has that one too and tells of the snapshotter only what is of images, the containers' list the rest.
use crate::call::Call;
use crate::core::snapshot::Usage;
use crate::cri::loops::snapshots_syncer::Part;
use crate::cri::{Cri, now};
use crate::error::Result;
use crate::proto::cri::{FilesystemIdentifier, FilesystemUsage, ImageFsInfoRequest, ImageFsInfoResponse, UInt64Value};
use protobuf::MessageField;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// ImageFsInfo.
pub fn image_fs_info(cri: &Cri, _: &Call, _: ImageFsInfoRequest) -> Result<ImageFsInfoResponse> {
    let default = &cri.images_config.snapshotter;
    let mut names: Vec<&String> = cri.ports.snapshotters.keys().collect();
    // The kubelet takes the first for the node's image filesystem.
    names.sort_by_key(|n| *n != default);
    let blobs = cri.ports.content.root();
    let mut answer = ImageFsInfoResponse::default();
    let mut apart = false;
    for name in names {
        let Ok(snapshotter) = cri.ports.snapshotter(name) else { continue };
        let one_disk = device(snapshotter.root()) == device(blobs);
        apart |= !one_disk && name == default;
        let parts = if one_disk { [Part::All, Part::All] } else { [Part::Committed, Part::Active] };
        for (list, part) in [&mut answer.image_filesystems, &mut answer.container_filesystems].into_iter().zip(parts) {
            let (usage, at) = cri.sizes.of_snapshotter(name, part);
            if name == default || usage.inodes > 0 {
                list.push(filesystem(snapshotter.root(), usage, at));
            }
        }
    }
    if apart {
        let (bytes, inodes) = cri.ports.content.usage()?;
        answer.image_filesystems.push(filesystem(blobs, Usage { bytes, inodes }, now()));
    }
    Ok(answer)
}

fn device(path: &Path) -> Option<u64> {
    std::fs::metadata(path).ok().map(|m| m.dev())
}

fn filesystem(root: &Path, usage: Usage, at: i64) -> FilesystemUsage {
    let value = |value| MessageField::some(UInt64Value { value, ..UInt64Value::default() });
    FilesystemUsage {
        timestamp: if at == 0 { now() } else { at },
        fs_id: MessageField::some(FilesystemIdentifier { mountpoint: root.display().to_string(), ..FilesystemIdentifier::default() }),
        used_bytes: value(usage.bytes),
        inodes_used: value(usage.inodes),
        ..FilesystemUsage::default()
    }
}
