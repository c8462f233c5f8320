//! Container events: told in order, with what the pod was like then, to all who listen; and PodSandboxStatus fits in with them.
use crate::harness::client::container_config;
use crate::harness::{Daemon, RUNTIMES, wait_until};
use cradle::proto::cri::*;
use cradle::proto::cri_methods::runtime_service as rt;
use cradle::rpc::grpc::Incoming;
use std::time::{Duration, Instant};

const SOON: Duration = Duration::from_secs(20);

type Events = Incoming<ContainerEventResponse>;

fn listen(d: &Daemon) -> Events {
    d.client().stream(&rt::GET_CONTAINER_EVENTS, &GetEventsRequest::default(), SOON).unwrap()
}

fn take(events: &mut Events, count: usize) -> Vec<ContainerEventResponse> {
    events.by_ref().take(count).map(|e| e.unwrap()).collect()
}

fn told(events: &[ContainerEventResponse]) -> Vec<(&str, ContainerEventType)> {
    events.iter().map(|e| (e.container_id.as_str(), e.container_event_type.unwrap())).collect()
}

#[test]
fn a_life_is_told_in_order_to_all_who_listen() {
    use ContainerEventType::*;
    let d = Daemon::start();
    let image = d.busybox();
    for handler in RUNTIMES {
        let (mut one, mut two) = (listen(&d), listen(&d));
        let pod = d.pod("told", handler);
        let main = pod.shell("main", &image, "sleep 1000");
        d.stop_container(&main.id, 0).unwrap();
        d.remove_container(&main.id).unwrap();
        pod.remove();
        let events = take(&mut one, 8);
        let (p, c) = (pod.id.as_str(), main.id.as_str());
        let expected = [
            (p, CONTAINER_CREATED_EVENT),
            (p, CONTAINER_STARTED_EVENT),
            (c, CONTAINER_CREATED_EVENT),
            (c, CONTAINER_STARTED_EVENT),
            (c, CONTAINER_STOPPED_EVENT),
            (c, CONTAINER_DELETED_EVENT),
            (p, CONTAINER_STOPPED_EVENT),
            (p, CONTAINER_DELETED_EVENT),
        ];
        assert_eq!(told(&events), expected, "{handler}");
        assert_eq!(told(&take(&mut two, 8)), expected, "{handler}");
        assert!(events.windows(2).all(|w| w[0].created_at <= w[1].created_at));
        assert!(events.iter().all(|e| e.pod_sandbox_status.id == p && e.pod_sandbox_status.metadata.name == "told"));
        let states: Vec<Vec<ContainerState>> =
            events.iter().map(|e| e.containers_statuses.iter().map(|s| s.state.unwrap()).collect()).collect();
        let (created, running, exited) =
            (ContainerState::CONTAINER_CREATED, ContainerState::CONTAINER_RUNNING, ContainerState::CONTAINER_EXITED);
        assert_eq!(states, [vec![], vec![], vec![created], vec![running], vec![exited], vec![], vec![], vec![]], "{handler}");
        assert_eq!(events[4].containers_statuses[0].exit_code, 137);
        assert_eq!(events[6].pod_sandbox_status.state, PodSandboxState::SANDBOX_NOTREADY.into());
    }
}

#[test]
fn a_start_that_fails_and_an_end_by_itself_are_told() {
    let d = Daemon::start();
    let image = d.busybox();
    let pod = d.pod("ends", "crun");
    let mut events = listen(&d);
    let brief = pod.shell("brief", &image, "exit 3");
    let last = take(&mut events, 3).pop().unwrap();
    assert_eq!(
        (last.container_event_type.unwrap(), last.containers_statuses[0].exit_code),
        (ContainerEventType::CONTAINER_STOPPED_EVENT, 3)
    );
    assert_eq!(last.container_id, brief.id);
    let missing = pod.create(container_config("missing", &image, &["/no/such/program"]));
    missing.start().unwrap_err();
    let failed = take(&mut events, 2).pop().unwrap();
    assert_eq!(
        (failed.container_id.as_str(), failed.container_event_type.unwrap()),
        (&*missing.id, ContainerEventType::CONTAINER_STOPPED_EVENT)
    );
    let status = failed.containers_statuses.iter().find(|s| s.id == missing.id).unwrap();
    assert_eq!(status.reason, "StartError");
}

#[test]
fn who_listens_and_then_lists_misses_nothing() {
    let d = Daemon::start();
    for n in 0..5 {
        // The pod is run by another client meanwhile: it is in the list, or among the events, or in both.
        std::thread::scope(|scope| {
            let run = scope.spawn(|| d.pod(&format!("race-{n}"), "crun").id);
            std::thread::sleep(Duration::from_millis(n * 40));
            let mut events = listen(&d);
            let listed = d.pod_ids();
            let id = run.join().unwrap();
            if !listed.contains(&id) {
                assert_eq!(take(&mut events, 1)[0].container_id, id);
            }
        });
    }
}

#[test]
fn who_never_reads_harms_nobody_and_who_leaves_makes_room() {
    let d = Daemon::start();
    let image = d.busybox();
    let deaf: Vec<Events> = (0..4).map(|_| listen(&d)).collect();
    let mut config = d.pod_config("large");
    config.annotations.insert("large".into(), "x".repeat(1 << 20));
    let pod = d.run_pod(config, "crun");
    let begun = Instant::now();
    for n in 0..4 {
        let mut config = container_config(&format!("c{n}"), &image, &["true"]);
        config.annotations.insert("large".into(), "x".repeat(1 << 19));
        let container = pod.create(config);
        d.remove_container(&container.id).unwrap();
    }
    let mut quick = listen(&d);
    let after = pod.create(container_config("after", &image, &["true"]));
    assert_eq!(take(&mut quick, 1)[0].container_id, after.id);
    assert_eq!(d.containers().len(), 1);
    // A publisher that waited for them would wait until they leave.
    assert!(begun.elapsed() < Duration::from_secs(40), "{:?}", begun.elapsed());
    drop(deaf);
    // More than there may be at once.
    for _ in 0..300 {
        drop(listen(&d));
    }
    let mut last = listen(&d);
    d.remove_container(&after.id).unwrap();
    assert_eq!(take(&mut last, 1)[0].container_id, after.id);
}

#[test]
fn a_shutdown_ends_the_streams() {
    let mut d = Daemon::start();
    let mut events = listen(&d);
    let pod = d.run_pod(d.pod_config("stays"), "crun").id;
    take(&mut events, 2);
    let begun = Instant::now();
    d.stop();
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    assert!(events.next().is_none_or(|end| end.is_err()));
    d.start_again();
    let mut events = listen(&d);
    d.stop_pod(&pod).unwrap();
    assert_eq!(told(&take(&mut events, 1)), [(pod.as_str(), ContainerEventType::CONTAINER_STOPPED_EVENT)]);
}

#[test]
fn a_pods_status_has_a_time_and_its_containers() {
    let d = Daemon::start();
    let image = d.busybox();
    let pod = d.pod("whole", "crun");
    let other = d.pod("other", "crun");
    other.shell("elsewhere", &image, "sleep 1000");
    let main = pod.shell("main", &image, "sleep 1000");
    let request = PodSandboxStatusRequest { pod_sandbox_id: pod.id.clone(), ..Default::default() };
    let first = d.get(&rt::POD_SANDBOX_STATUS, &request);
    assert_eq!(first.containers_statuses.iter().map(|s| s.id.as_str()).collect::<Vec<_>>(), [main.id.as_str()]);
    assert_eq!(first.containers_statuses[0].state, ContainerState::CONTAINER_RUNNING.into());
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_nanos() as i64;
    assert!(first.timestamp > main.status().started_at && first.timestamp <= now);
    let mut events = listen(&d);
    d.stop_container(&main.id, 0).unwrap();
    let stopped = take(&mut events, 1).pop().unwrap();
    assert!(stopped.created_at > first.timestamp);
    wait_until("a newer status", SOON, || d.get(&rt::POD_SANDBOX_STATUS, &request).timestamp > stopped.created_at);
}
