//! ImageFsInfo: what images and containers take, from sizes that the snapshots syncer keeps. Answers at once, as the kubelet
//! uses it to see whether the connection stands.
use crate::call::Call;
use crate::cri::{Cri, now};
use crate::error::Result;
use crate::proto::cri::{FilesystemIdentifier, FilesystemUsage, ImageFsInfoRequest, ImageFsInfoResponse, UInt64Value};
use protobuf::MessageField;

/// ImageFsInfo.
pub fn image_fs_info(cri: &Cri, _: &Call, _: ImageFsInfoRequest) -> Result<ImageFsInfoResponse> {
    let default = &cri.images_config.snapshotter;
    let mut names: Vec<&String> = cri.ports.snapshotters.keys().collect();
    // The kubelet takes the first for the node's image filesystem.
    names.sort_by_key(|n| *n != default);
    let in_use = |n: &&String| *n == default || cri.sizes.of_snapshotter(n).0.inodes > 0;
    let filesystems: Vec<FilesystemUsage> = names.into_iter().filter(in_use).filter_map(|n| usage(cri, n)).collect();
    Ok(ImageFsInfoResponse { image_filesystems: filesystems.clone(), container_filesystems: filesystems, ..ImageFsInfoResponse::default() })
}

fn usage(cri: &Cri, name: &str) -> Option<FilesystemUsage> {
    let mountpoint = cri.ports.snapshotter(name).ok()?.root().display().to_string();
    let (usage, at) = cri.sizes.of_snapshotter(name);
    let value = |value| MessageField::some(UInt64Value { value, ..UInt64Value::default() });
    Some(FilesystemUsage {
        timestamp: if at == 0 { now() } else { at },
        fs_id: MessageField::some(FilesystemIdentifier { mountpoint, ..FilesystemIdentifier::default() }),
        used_bytes: value(usage.bytes),
        inodes_used: value(usage.inodes),
        ..FilesystemUsage::default()
    })
}
