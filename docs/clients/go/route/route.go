// Package route asks pgvigil which server to read from.
package route

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
)

// Server is one to read from.
type Server struct {
	Target   string `json:"target"`
	Host     string `json:"host"`
	Port     uint16 `json:"port"`
	Timeline uint32 `json:"timeline"`
	Fallback bool   `json:"fallback"`
}

// Ask names a server for wish, for example {"lsn": {lsn}, "wait": {"500ms"}, "fallback": {"primary"}}, where lsn is what
// SELECT pg_current_wal_flush_lsn() said on the primary after the commit. On an error read from the primary.
func Ask(ctx context.Context, base, cluster string, wish url.Values) (*Server, error) {
	address := fmt.Sprintf("%s/api/v1/clusters/%s/route?%s", base, url.PathEscape(cluster), wish.Encode())
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
	if err != nil {
		return nil, err
	}
	answer, err := http.DefaultClient.Do(request)
	if err != nil {
		return nil, err
	}
	defer answer.Body.Close()
	if answer.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("pgvigil names no server: %s", answer.Status)
	}
	var server Server
	return &server, json.NewDecoder(answer.Body).Decode(&server)
}
