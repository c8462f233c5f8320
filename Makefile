.PHONY: help setup build run test lint dist clean
help: ## this list
	@sed -n 's/^\([a-z]*\):.*## /\1\t/p' $(MAKEFILE_LIST)
setup: ## install what building and running need (apt, as root)
	@tests/setup.sh
build: setup ## both programs, in target/release
	cargo build --release
run: build ## pull an image, run a pod of it, show its output, clean up; IMAGE= takes another than our own
	cargo build --release --example push-image
	tests/namespaces.sh $(if $(IMAGE),--host-network) tests/run-pod.sh $(IMAGE)
test: ## all tests (as root), some in a user-mode Linux with cgroup v2 (SKIP_UML=1: not those), all in namespaces of their own
	@tests/setup.sh --tests
	cargo test --release --features failpoints --no-run
	tests/cgroup2.sh --release --features failpoints --offline; uml=$$?; tests/namespaces.sh cargo test --release --features failpoints --offline --no-fail-fast && exit $$uml
lint: ## formatting, lints and docs, without a warning
	cargo fmt --check
	cargo clippy --release --all-targets -- -D warnings
	RUSTDOCFLAGS="-D warnings" cargo doc --release --no-deps
dist: ## programs that need only libc, libstdc++ and libssl: compiles gRPC's C core, 20 to 50 minutes, in target/dist
	@tests/setup.sh --dist
	GRPCIO_SYS_USE_PKG_CONFIG=0 cargo build --release --target-dir target/dist
	ls -l target/dist/release/cradled target/dist/release/containerd-shim-cradle-v2
clean: ## remove what was built
	cargo clean
