# Commands for daily development. The scripts do the work.
.DEFAULT_GOAL := help
FUZZTIME ?= 20s
run = @bash -euo pipefail -c 'source scripts/lib.sh && need_go && "$$@"' make

.PHONY: help
help: ## print this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: build
build: ## build the four programs into bin/
	$(run) build bin

.PHONY: demo
demo: ## run the whole system on this machine
	@./scripts/quickstart.sh

.PHONY: lint
lint: ## gofmt, go vet (for other systems too), staticcheck, shellcheck
	$(run) lint

.PHONY: lint-full
lint-full: ## golangci-lint, configured in .golangci.yaml (the first time builds it: about 5 minutes)
	$(run) lint_full

.PHONY: test
test: ## all checks and tests that must pass before a change is merged
	@./scripts/test.sh

.PHONY: release-check
release-check: ## build for linux, darwin and freebsd into a temporary directory
	$(run) release_check

.PHONY: bench
bench: ## measure the table in docs/benchmarks.md, beside other queues (20 minutes)
	@./scripts/bench.sh

.PHONY: fuzz
fuzz: ## run each fuzz test for FUZZTIME (20s)
	$(run) fuzz $(FUZZTIME)

.PHONY: clean
clean: ## remove what was built and the files of the demo
	@./scripts/quickstart.sh --clean
