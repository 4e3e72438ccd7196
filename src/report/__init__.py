"""Turn run folders into tables, pictures and one page. Only reads and shows what a run has stored."""
