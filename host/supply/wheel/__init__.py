"""Reading wheels strictly: structure, names, RECORD and metadata; what two readers could see differently is refused."""
