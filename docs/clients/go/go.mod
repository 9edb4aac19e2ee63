module pgvigil.example/client

go 1.19
