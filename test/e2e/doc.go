// Package e2e proves the whole line on a real one-node Kubernetes: what the
// chart installs, with the images that make images writes, under the workloads
// of deploy/examples. It has tests alone; start at install in install_test.go.
//
// All tests share one node and one release of the chart. Each states the values
// that it needs, and the release is upgraded where they differ, so that every
// test runs alone too. A test reaches into the node from outside: through
// kubectl, over the pods' network, and at the sockets that the agent makes.
package e2e
