"""The modes of a shared pool: who decides right now, and what that changes."""
