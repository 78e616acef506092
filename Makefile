# What a developer does daily. The scripts hold the work; this is their list.
.DEFAULT_GOAL := help
FUZZTIME ?= 20s

.PHONY: help
help: ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: build
build: ## build the four programs into bin/
	@bash -euo pipefail -c 'source scripts/lib.sh && need_go && build bin'

.PHONY: demo
demo: ## show the whole system on this machine
	@./scripts/quickstart.sh

.PHONY: lint
lint: ## gofmt, vet, staticcheck, shellcheck
	@bash -euo pipefail -c 'source scripts/lib.sh && need_go && lint'

.PHONY: test
test: ## all that must pass before a change lands
	@./scripts/test.sh

.PHONY: bench
bench: ## the figures of docs/benchmarks.md
	go test -run '^$$' -bench . -benchtime 500x ./pkg/store
	go test -run '^$$' -bench PeakMemory -benchtime 1x ./internal/e2e

.PHONY: fuzz
fuzz: ## fuzz what reads foreign bytes, each for FUZZTIME (20s)
	@bash -euo pipefail -c 'source scripts/lib.sh && need_go && fuzz $(FUZZTIME)'

.PHONY: clean
clean: ## remove what was built and what the demo left
	rm -rf bin var
