// Package deploy holds how Istio-Auth is installed on Kubernetes: the Helm
// chart, as files and embedded in programs, with the definitions of the
// policies' kinds. The images are made by the module in images.
package deploy

import "embed"

// Chart is the chart, below the folder "chart".
//
//go:embed all:chart
var Chart embed.FS
