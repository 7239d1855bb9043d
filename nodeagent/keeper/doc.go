// Package keeper is the first process of the agent's container.
//
// It starts the agent, and starts it again the moment it dies, in the same
// container: a kubelet would take seconds, and back off to minutes. As process 1
// it hands signals on and reaps what is orphaned. It keeps no state and opens no
// socket, so that there is little in it that could make it die. Start at [Keeper].
package keeper
