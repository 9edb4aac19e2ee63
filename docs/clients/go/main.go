// Prints the server that has replayed what was written up to LSN: PGVIGIL_URL, CLUSTER, LSN, WAIT in the environment.
package main

import (
	"context"
	"encoding/json"
	"log"
	"net/url"
	"os"
	"time"

	"pgvigil.example/client/route"
)

func main() {
	// Longer than any wait here.
	ctx, cancel := context.WithTimeout(context.Background(), 35*time.Second)
	defer cancel()
	wish := url.Values{"lsn": {os.Getenv("LSN")}, "wait": {os.Getenv("WAIT")}, "fallback": {"primary"}}
	server, err := route.Ask(ctx, os.Getenv("PGVIGIL_URL"), os.Getenv("CLUSTER"), wish)
	if err != nil {
		log.Fatal(err)
	}
	json.NewEncoder(os.Stdout).Encode(server)
}
