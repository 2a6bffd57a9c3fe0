"""What a campaign has done: a record of it, and the table, figures and page made from the record."""
