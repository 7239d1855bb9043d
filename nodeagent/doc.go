// Package nodeagent keeps the workloads of one node supplied with identities.
//
// It joins three things that others do: who is here (the CSI driver or a
// registry calls [Agent.Add] and [Agent.Remove]), who issues (an [Issuer]), and
// who serves (the [Endpoints], a socket for each workload). Between them it makes
// keys, asks for certificates, looks at what came back as if the CA were a
// stranger, and asks again in time ([renew]). Private keys exist in memory alone.
// It knows neither Kubernetes nor gRPC nor Envoy. Start at [Agent].
package nodeagent
