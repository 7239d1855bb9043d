# Istio-Auth. `make` lists the targets.

export CGO_ENABLED := 0
# The same flags everywhere, so that Go compiles each package once for the
# product, its tests and Kubernetes.
export GOFLAGS := -trimpath -buildvcs=false
export GOTOOLCHAIN := local

VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo devel)
LDFLAGS := -s -w -X github.com/istio-auth/istio-auth/cmd/internal/daemon.version=$(VERSION)
PROGRAMS := istio-auth istio-ca istio-manager istio-nodeagent
KUBERNETES := 1.37.2
KUBELINKS := etcd kube-apiserver kube-controller-manager kube-scheduler kubelet kube-proxy kubectl helm

.DEFAULT_GOAL := help
.PHONY: help
help: ## list the targets
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "  %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: up
up: build envoy ## run the whole system on loopback, with a demonstration
	bin/istio-auth up

.PHONY: build
build: ## build the programs into bin/
	go build -ldflags '$(LDFLAGS)' -o bin/ $(addprefix ./cmd/,$(PROGRAMS))

.PHONY: envoy
envoy: build ## install the pinned Envoy into .tools/
	@bin/istio-auth envoy install --tools .tools

.PHONY: test
test: lint ## run every test that this machine permits, and name what it skipped
	cd tools && go test ./...
	cd deploy/images && go test ./...
	ISTIO_AUTH_CASES=200000 go tool -modfile=tools/go.mod gotestsum --format pkgname-and-test-fails -- -p 2 -timeout 30m ./...

CASES ?= 5000000
SEED ?= 1
.PHONY: soak
soak: ## have the evaluators of policy agree on CASES=5000000 random cases, from SEED=1 on
	go test -v -count=1 -timeout 24h -run 'TestEnvoyAgrees|TestMismatches|TestMetamorphic' ./rbac/compile -args -cases $(CASES) -calls 400 -seed $(SEED)

.PHONY: race
race: ## run the tests under the race detector, by hand: it needs cgo and compiles all anew
	CGO_ENABLED=1 go test -race -p 2 ./attest/... ./mtls ./ca/... ./nodeagent/... ./sds/... ./rbac/... ./manager/... ./cmd/internal/...

.PHONY: lint
lint: ## formatting and vet
	@unformatted=$$(gofmt -l $$(git ls-files '*.go')); test -z "$$unformatted" || { echo "not gofmt'ed: $$unformatted"; exit 1; }
	go vet ./...

.PHONY: generate
generate: ## regenerate what is generated
	go generate ./...

.PHONY: bench
bench: ## measure, and print a line of JSON for each figure; BENCH=issuance for one
	@go run ./cmd/internal/bench $(BENCH)

.PHONY: images
images: envoy ## write the container images as OCI archives into dist/images
	cd deploy/images && go run . -version '$(subst +,-,$(VERSION))' -revision '$(shell git rev-parse HEAD)' -envoy $(CURDIR)/.tools/envoy-1.40.0/envoy

.PHONY: e2e
e2e: images ## the end-to-end tests alone, on a node of their own (root; after make kube node-deps)
	go test -count=1 -v -timeout 30m ./test/e2e

.PHONY: node-deps
node-deps: ## fetch containerd, runc and the CNI plugins for the test node into .tools
	hack/node-deps.sh

.PHONY: kube
kube: .tools/kube/kubeall ## build Kubernetes, etcd and helm for the tests into .tools/kube (9 minutes on two cores)

.tools/kube/kubeall: test/kube/go.mod test/kube/go.sum test/kube/cmd/kubeall/main.go
	cd test/kube && go build -ldflags "-s -w $(foreach v,gitVersion=v$(KUBERNETES) gitMajor=1 gitMinor=37,-X k8s.io/component-base/version.$(v))" \
		-o ../../.tools/kube/kubeall ./cmd/kubeall
	for name in $(KUBELINKS); do ln -sf kubeall .tools/kube/$$name; done
