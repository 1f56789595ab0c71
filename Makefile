# The commands of a contributor. Each works on a fresh Debian 12 with Rust and make: what else is needed is
# installed when it is missing (scripts/install-tools).
.PHONY: help demo test test-long lint sim mutants fuzz bench-nbd bench-mirror

help:
	@echo 'make demo         shows what Evenkeel does, in under a minute'
	@echo 'make test         everything that must hold before a change lands (docs/testing.md)'
	@echo 'make test-long    the same with bigger numbers (TEST_SCALE=10)'
	@echo 'make lint         only format, clippy and licences'
	@echo 'make sim          the simulator, MINUTES=5 of fresh seeds, or one SEED=n (docs/simulator.md)'
	@echo 'make mutants      breaks each rule of the engine on purpose; writes docs/mutants.md (docs/testing.md)'
	@echo 'make fuzz         fuzz targets, each FUZZ_SECONDS=600 (needs the nightly toolchain)'
	@echo 'make bench-nbd    speed of the NBD server beside qemu-nbd and nbdkit'
	@echo 'make bench-mirror speed of a mirrored volume beside qemu-storage-daemon with quorum (4 minutes)'

demo:
	@scripts/demo

test:
	@scripts/test

test-long:
	@EVENKEEL_TEST_SCALE=$(or $(TEST_SCALE),10) scripts/test

lint:
	@scripts/test lint

sim:
	@cargo run --locked --release -p evenkeel-sim -- $(if $(SEED),--seed $(SEED),--minutes $(or $(MINUTES),5))

mutants:
	@cargo run --locked -p evenkeel-mutants -- --table docs/mutants.md

fuzz:
	@scripts/fuzz

bench-nbd:
	@scripts/install-tools
	@cargo build --locked --release -p evenkeel
	@cargo run --locked --release -p evenkeel-benches --bin nbd_peers

bench-mirror:
	@scripts/install-tools
	@cargo build --locked --release -p evenkeel
	@cargo run --locked --release -p evenkeel-benches --bin mirror_peers
