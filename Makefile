# SPDX-License-Identifier: Apache-2.0

# clang that makes the committed BPF objects; another version makes other objects.
CLANG ?= clang-14
CLANG_FORMAT ?= clang-format-14
# Kernels for test-vm: 5.10, 6.1, 6.12, 7.x or the name of a Debian suite.
KERNELS ?= 6.1
# How long each random test of make fuzz runs, in seconds; SYNWARD_TEST_SEED= repeats one.
FUZZ_SECONDS ?= 30
# Further flags for go test, e.g. TESTFLAGS='-v -run TestMeter'; RACE= tests without the race detector.
TESTFLAGS ?=
RACE ?= -race
VERSION := $(shell git describe --tags --always --dirty 2>/dev/null || echo unknown)

export CLANG CLANG_FORMAT
# sudo leaves out the directory where Go is usually unpacked.
export PATH := $(PATH):/usr/local/go/bin

.DEFAULT_GOAL := help
.PHONY: help build generate fmt lint check test test-vm bench-check budget demo packages test-packages test-boot clean

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-13s %s\n", $$1, $$2 }' Makefile

build: ## Build bin/synward
	@scripts/setup.sh build
	CGO_ENABLED=0 go build -trimpath -buildvcs=false -ldflags "-s -w -X main.version=$(VERSION)" \
		-o bin/synward ./cmd/synward

generate: ## Compile the BPF programs and write their Go bindings
	@scripts/setup.sh generate
	BPF2GO_CC=$(CLANG) go generate ./...

fmt: ## Format Go and C sources
	@scripts/setup.sh fmt
	gofmt -w .
	find bpf pkg \( -path 'bpf/*.[ch]' -o -name '*.bpf.c' \) ! -name 'vmlinux*.h' -exec $(CLANG_FORMAT) -i {} +

lint: ## Check formatting and run the linters
	@scripts/setup.sh lint
	@scripts/check.sh lint

check: ## Lint, import order, generated files, go.mod, licence lines
	@scripts/setup.sh check
	@scripts/check.sh check

test: ## Run all tests on this kernel (needs root)
	@[ "$$(id -u)" = 0 ] || { echo "make test needs root: run sudo make test" >&2; exit 1; }
	@scripts/setup.sh test
	@# One package after the other: limits of concurrent connections count the sockets of the whole host.
	go test $(RACE) -p 1 -count=1 -timeout 45m $(TESTFLAGS) ./...

fuzz: ## FUZZ_SECONDS each: frames beside a second parser, frames before the kernel, policies, feeds (needs root)
	@[ "$$(id -u)" = 0 ] || { echo "make fuzz needs root: run sudo make fuzz" >&2; exit 1; }
	@scripts/setup.sh test
	SYNWARD_TEST_FUZZ_SECONDS=$(FUZZ_SECONDS) go test -count=1 -timeout=0 -v \
		-run '^(TestDifferential|TestPassedUncountedIsNotAnswered)$$' ./pkg/datapath
	go test -run '^$$' -fuzz '^FuzzParse$$' -fuzztime $(FUZZ_SECONDS)s ./pkg/policy
	go test -run '^$$' -fuzz '^FuzzFeed$$' -fuzztime $(FUZZ_SECONDS)s ./pkg/feed

test-vm: ## Run the kernel-dependent tests on other kernels in QEMU (KERNELS="6.1 6.12")
	@scripts/setup.sh test-vm
	@scripts/test-vm.sh $(KERNELS)

bench-check: ## Hold the cost of each path against its goal (needs root)
	@scripts/setup.sh bench-check
	go test -run '^$$' -bench 'BenchmarkCost|BenchmarkScaling|BenchmarkAddBesideAMillion|BenchmarkFeedLoad' -benchtime 1x ./pkg/datapath ./pkg/state

budget: ## Write down anew what the programs cost the verifier on other kernels (KERNELS=)
	@scripts/setup.sh test-vm
	SYNWARD_TEST_UPDATE=1 SYNWARD_VM_OUT=1 SYNWARD_VM_PACKAGES=./pkg/datapath \
		SYNWARD_VM_ARGS=-test.run=TestVerifierBudget scripts/test-vm.sh $(KERNELS)

demo: build ## Show the limiter at work between network namespaces
	@scripts/setup.sh demo
	@scripts/demo.sh

packages: ## Build dist/*.deb and dist/*.rpm, for amd64 and arm64
	@scripts/setup.sh packages
	@scripts/package/build.sh dist

test-packages: ## Install, upgrade, remove and purge the packages in a clean Debian; look at the units (needs root)
	@scripts/setup.sh test-packages
	@scripts/package/test.sh

test-boot: ## Install the deb in a VM with systemd, reboot it, and look what came back (KERNELS=)
	@scripts/setup.sh test-boot
	@scripts/package/test-boot.sh $(KERNELS)

clean: ## Remove what the build left
	rm -rf bin dist
